"""Files of rows to examples: one file a shape, the shape guessed and said, nothing dropped."""

from stepladder.data.readers.assemble import ReadResult
from stepladder.data.readers.read import InputRow, line_of_input, read_examples, read_file, read_inputs, read_labelled

__all__ = ["InputRow", "ReadResult", "line_of_input", "read_examples", "read_file", "read_inputs", "read_labelled"]
