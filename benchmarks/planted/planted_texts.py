"""Faults in any text: encodings, invisible characters, markup, leftovers, other languages, control tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from planted_copy import Kind, Plant, in_answer, in_prompt

EVERY = ("tickets", "handbook", "clinic", "voice", "repairs", "snips", "disfluent-qa", "clinc150")
PROSE = ("clinic", "voice")

FOREIGN_SCRIPT = (
    "Здравствуйте, посылка до сих пор не пришла, подскажите, пожалуйста, где она сейчас находится.",
    "请问我的订单什么时候可以送到？我已经等了两个星期了。",
    "こんにちは、注文した商品がまだ届いていません。いつ届きますか。",
    "Καλησπέρα σας, θα ήθελα να μάθω πότε θα έρθει ο τεχνικός στο σπίτι μας.",
    "مرحبا، أود أن أعرف متى سيصل الطلب الذي دفعت ثمنه الأسبوع الماضي.",
    "안녕하세요, 지난주에 주문한 물건이 아직 도착하지 않았습니다.",
)
FOREIGN_WORDS = (
    "Guten Tag, ich habe letzte Woche etwas bestellt und es ist noch immer nicht bei mir angekommen. Wo ist es denn?",
    "Bonjour, je vous écris parce que la commande que j'ai passée la semaine dernière n'est pas encore arrivée chez moi.",
    "Hola, quisiera saber por qué el pedido que hice la semana pasada todavía no ha llegado a mi casa y qué puedo hacer.",
    "Buongiorno, vorrei sapere perché il pacco che ho ordinato la settimana scorsa non è ancora arrivato a casa mia.",
    "Goedendag, ik heb vorige week iets besteld en het is nog steeds niet bij mij thuis aangekomen. Wat moet ik nu doen?",
    "Bom dia, gostaria de saber por que a encomenda que fiz na semana passada ainda não chegou à minha casa.",
    "Hej, jag beställde en sak förra veckan och den har inte kommit fram än. Kan ni säga mig var den är?",
    "Dzień dobry, w zeszłym tygodniu zamówiłem towar, który jeszcze do mnie nie dotarł. Czy może mi pan powiedzieć, gdzie jest?",
)
ZERO_WIDTH = ("\u200b", "\u200c", "\u2060", "\ufeff", "\u00ad", "\u202e", "\u200f")
CONTROL = ("\x00", "\x07", "\x0b", "\x1b", "\x7f", "\x85", "\ue000", "\uf8ff")
TOKENS = (
    *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "[INST]", "[/INST]", "<<SYS>>", "</s>", "<|eot_id|>", "<|end|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|fim_suffix|>", "<|begin_of_text|>", "<|assistant|>"),
)
GAPS = (
    *("{name}", "{{customer_name}}", "[insert date]", "[INSERT NAME HERE]", "TODO", "lorem ipsum dolor sit amet"),
    *("<your name>", "[Your Name]", "TBD", "XXX"),
)


def _letter(text: str, chance: Random) -> int | None:
    """The index of a letter inside a word."""
    inside = [match.start() + 1 for match in re.finditer(r"[a-z]{3}", text)]
    return chance.choice(inside) if inside else None


def _insert(signs: tuple[str, ...]) -> Callable[[str, Random], str | None]:
    def change(text: str, chance: Random) -> str | None:
        at = _letter(text, chance)
        return None if at is None else text[:at] + chance.choice(signs) + text[at:]

    return change


def misread(text: str, chance: Random) -> str | None:
    """A letter with an accent or a curly sign, written as UTF-8 and read as Windows-1252."""
    at = _letter(text, chance)
    if at is None:
        return None
    sign = chance.choice("éüñçöà’–“…£").encode().decode("cp1252", errors="ignore")
    return text[:at] + sign + text[at + 1 :]


def unreadable(text: str, chance: Random) -> str | None:
    at = _letter(text, chance)
    return None if at is None else text[:at] + "\ufffd" + text[at + 1 :]


def tagged(text: str, chance: Random) -> str | None:
    words = text.split(" ")
    at = chance.randrange(len(words))
    tag = chance.choice(("b", "i", "p", "strong", "span", "div", "em"))
    words[at] = f"<{tag}>{words[at]}</{tag}>"
    return chance.choice((" ".join(words), text + "<br>", text + "<br/>"))


def escaped_html(text: str, chance: Random) -> str:
    at = chance.choice([index for index, sign in enumerate(f"{text} ") if sign == " "])
    return text[:at] + chance.choice((" &amp; ", "&nbsp;", " &quot;", " &lt;", "&#39;s ", " &gt; ")) + text[at + 1 :]


def escaped_text(text: str, chance: Random) -> str:
    at = chance.choice([index for index, sign in enumerate(f"{text} ") if sign == " "])
    return text[:at] + chance.choice((r"\n", r"\n\n", r"\t", r"\r\n", r"\u00e9")) + text[at + 1 :]


def gap(text: str, chance: Random) -> str:
    words = text.split(" ")
    words.insert(chance.randrange(len(words) + 1), chance.choice(GAPS))
    return " ".join(words)


def speakers(text: str, chance: Random) -> str:
    forms = (
        "User: {}",
        "Human: {}\nAssistant:",
        "### Instruction:\n{}",
        "Q: {}\nA:",
        "{}\n### Response:",
        "Customer: {}\nAgent:",
    )
    return chance.choice(forms).format(text)


def numbered(text: str, chance: Random) -> str:
    return chance.choice((f"{chance.randrange(1, 90)}. ", f"{chance.randrange(1, 90)}) ", "- ", "• ", "* ", "(3) ")) + text


def outer_space(text: str, chance: Random) -> str:
    return chance.choice((f" {text}", f"{text} ", f"{text}\n", f"\t{text}", f"\n\n{text}"))


def separated(text: str, chance: Random) -> str:
    return text + chance.choice(("\n\n###\n\n", " ->", "\n\n###", " =>"))


def stopped(text: str, chance: Random) -> str:
    return text + chance.choice((" END", "\nEND", " ###", "###", "\n###"))


def control(text: str, chance: Random) -> str:
    words = text.split(" ")
    words.insert(chance.randrange(len(words) + 1), chance.choice(TOKENS))
    return " ".join(words)


def _kind(name: str, codes: str, plant: Plant, sets: tuple[str, ...] = EVERY, *, exact: bool = True) -> Kind:
    return Kind(name, frozenset(codes.split()), plant, sets, exact)


KINDS = (
    _kind("wrong encoding in an input", "mojibake", in_prompt(misread)),
    _kind("wrong encoding in an answer", "mojibake", in_answer(misread), PROSE),
    _kind("replacement character", "mojibake", in_prompt(unreadable)),
    _kind("zero-width or direction character", "invisible", in_prompt(_insert(ZERO_WIDTH))),
    _kind("control or private-use character", "invisible broken-row", in_prompt(_insert(CONTROL))),  # NUL breaks a row
    _kind("HTML tag", "markup", in_prompt(tagged)),
    _kind("HTML entity", "markup", in_prompt(escaped_html)),
    _kind("written-out escape", "markup", in_prompt(escaped_text)),
    _kind("gap of a template in an input", "leftover", in_prompt(gap)),
    _kind("gap of a template in an answer", "leftover", in_answer(gap), PROSE),
    _kind("speaker or section mark", "dialogue-marks", in_prompt(speakers)),
    _kind("list number or bullet", "numbering", in_prompt(numbered)),
    _kind("white space around an input", "whitespace", in_prompt(outer_space)),
    _kind("white space around an answer", "whitespace", in_answer(outer_space), ("handbook", *PROSE)),
    _kind("separator after an input", "separator", in_prompt(separated)),
    _kind("stop word after an answer", "separator", in_answer(stopped), ("handbook", *PROSE)),
    _kind("control token", "control-token", in_prompt(control)),
    _kind("input in another script", "language", in_prompt(lambda text, chance: chance.choice(FOREIGN_SCRIPT))),
    _kind("input in another language", "language", in_prompt(lambda text, chance: chance.choice(FOREIGN_WORDS)), exact=False),
    _kind("answer in another script", "language", in_answer(lambda text, chance: chance.choice(FOREIGN_SCRIPT)), PROSE),
    _kind(
        "answer in another language", "language", in_answer(lambda text, chance: chance.choice(FOREIGN_WORDS)), PROSE, exact=False
    ),
)
