"""What outlives the process. A run folder is the truth; anything else can be rebuilt from it."""
