"""Write `golden_token_ids.json`: 1,000 strings and the ids llama.cpp gives them, read from the starter model's GGUF itself.

Not a test. To make it again: `pip install xllamacpp` into an environment of its own, then
`python make_golden_token_ids.py FOLDER/SmolLM2-135M-Instruct.Q4_1.gguf`.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import urllib.request
from importlib import metadata
from pathlib import Path

WORD_LINE = "the of parcel Refund IT'S don't we'll naïve straße Ünïcödé Москва ελλάδα 東京 안녕 مرحبا हिन्दी İstanbul e\u0301 ﬁ ǅ"
DIGIT_LINE = "0 7 42 4711 2026 3.14 1,000,000 12ab ab12 1e-5 0x1F ¼ ² Ⅷ ٣ ० １２ 00 1st 24/7"
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", " \n ", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\t\t ", "\u2028", "\x0b"]
EMOJI = ["🙂", "👩‍👩‍👧", "🇩🇪", "✅", "❤️", "𝔘", "𓀀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
CODE = [
    "def f(x):",
    "    return x[0]",
    "</div>",
    '{"a": 1}',
    "&&",
    "!=",
    "//",
    "#!",
    "\\n",
    "'''",
    "a_b",
    "camelCase",
    "x=1;",
    "::",
    "->",
    "`",
]
SIGNS = [*".,;:!?()[]{}'\"-–—…€$%@&*+/<=>^_|~", "...", "!!", "'s", "'S", "'re", "’t", "--"]
POOLS = (WORD_LINE.split(), DIGIT_LINE.split(), SPACES, EMOJI, CODE, SIGNS)


def build_strings(count: int, seed: int) -> list[str]:
    """Strings of 1 to 14 pieces, half from one pool with spaces, half from all, and some of raw code points."""
    draw = random.Random(seed)
    strings: dict[str, None] = {}
    while len(strings) < count:
        kind = draw.random()
        if kind < 0.15:
            points = (draw.randrange(1, 0x3000) for _ in range(draw.randrange(1, 12)))
            text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
        else:
            pools = (draw.choice(POOLS), SPACES) if kind < 0.6 else POOLS
            text = "".join(draw.choice(draw.choice(pools)) for _ in range(draw.randrange(1, 15)))
        if text:
            strings[text] = None
    return list(strings)


def tokenize(address: str, text: str) -> list[int]:
    body = json.dumps({"content": text, "add_special": False}).encode()
    request = urllib.request.Request(f"{address}/tokenize", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


def main(gguf: Path) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf)
    settings.n_ctx = 256
    settings.port = 0
    server = xllamacpp.Server(settings)
    strings = build_strings(1000, seed=2026)
    golden = {
        "gguf_sha256": hashlib.sha256(gguf.read_bytes()).hexdigest(),
        "made_by": f"xllamacpp {metadata.version('xllamacpp')}",
        "rows": [[text, tokenize(server.listening_address, text)] for text in strings],
    }
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in golden.pop("rows"))
    head = json.dumps(golden)[:-1]
    target = Path(__file__).with_name("golden_token_ids.json")
    target.write_text(f'{head}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
