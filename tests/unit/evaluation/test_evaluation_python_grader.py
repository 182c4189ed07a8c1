"""Functions of users: what they may do, and sixty-odd things they may not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.prediction import Score, Ungraded
from stepladder.evaluation.graders.on_examples import OnExamples
from stepladder.evaluation.graders.python_function import Bounds, PythonFunction, imported_modules
from stepladder.evaluation.graders.reward import Fault, GraderRefused, Outcome, Reward, Subject, Trouble

SECRET = "correct-horse-battery-staple"
TIGHT = Bounds(seconds=0.25, memory_bytes=32 * 2**20, output_bytes=10_000, depth=200)
KILLED_WITHIN_SECONDS = TIGHT.seconds + 4  # killed a second after its limit; a busy machine may be slower


def outcome(source: str, answer: str = "Paris", item: dict[str, Any] | None = None, bounds: Bounds = TIGHT) -> Outcome:
    return PythonFunction(None, source, bounds).reward(Subject(item or {}, answer))


def body(*lines: str) -> str:
    return "def grade(sample, item):\n" + "".join(f"    {line}\n" for line in lines)


# What works -------------------------------------------------------------------------------------------------------------


def test_the_function_of_openais_guide_runs() -> None:
    source = '''
def grade(sample: dict, item: dict) -> float:
    """
    Returns 1.0 if `output_text` equals `label`, otherwise 0.0.
    """
    output = sample.get("output_text")
    label = item.get("label")
    return 1.0 if output == label else 0.0
'''
    assert outcome(source, "Paris", {"label": "Paris"}) == Reward(1.0)
    assert outcome(source, "Rome", {"label": "Paris"}) == Reward(0.0)


def test_json_answers_imports_helpers_and_classes_work() -> None:
    source = """
import json, math, re
from collections import Counter

class Weights:
    def __init__(self, right):
        self.right = right

def share(words, wanted):
    return sum((Counter(words) & Counter(wanted)).values()) / len(wanted)

def grade(sample, item):
    found = sample["output_json"]["words"]
    assert re.match(r"[a-z]+", found[0])
    return math.sqrt(Weights(share(found, item["reference"].split())).right)
"""
    found = outcome(source, '{"words": ["a", "b", "c", "x"]}', {"reference": "a b c d"})
    assert found == Reward(pytest.approx(0.75**0.5))


def test_whole_numbers_and_truth_values_are_numbers() -> None:
    assert outcome(body("return 1")) == Reward(1.0)
    assert outcome(body("return True")) == Reward(1.0)


def test_the_same_answer_gets_the_same_grade_whatever_the_clock_and_the_dice_say() -> None:
    source = "import random, time\nfrom datetime import datetime\n" + body(
        "return random.random() + time.time() + datetime.now().microsecond"
    )
    assert outcome(source) == outcome(source)


def test_nothing_is_kept_from_one_call_to_the_next() -> None:
    function = PythonFunction(None, "seen = []\n" + body("seen.append(1)", "return float(len(seen))"))
    assert [function.reward(Subject({}, "x")) for _ in range(3)] == [Reward(1.0)] * 3


# What leaves a row ungraded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("raise ValueError('my own words')",), "the function failed: ValueError: my own words"),
        (("return item['label']",), "the function failed: KeyError"),
        (("return 'good'",), "the function returned str, not a number"),
        (("return None",), "the function returned NoneType, not a number"),
        (("return '1.0'",), "the function returned str"),
        (("pass",), "the function returned NoneType"),
        (("return float('nan')",), "the function returned nan"),
        (("return float('inf')",), "the function returned inf"),
    ],
)
def test_a_function_that_fails_or_returns_no_number_grades_nothing(lines: tuple[str, ...], reason: str) -> None:
    found = outcome(body(*lines))
    assert isinstance(found, Fault)
    assert found.trouble is Trouble.PYTHON_RUN
    assert found.reason.startswith(reason)


def test_a_number_outside_zero_to_one_is_ungraded_and_half_a_character_is_not_handed_over() -> None:
    row = Example(input=Input.of("q"), reference=Message("assistant", "r"))
    ten = OnExamples(PythonFunction(None, body("return 10.0")))
    assert ten.grade(row, "x") == Fault("the grader gives 10, outside 0 to 1", Trouble.OTHER)
    assert isinstance(OnExamples(PythonFunction(None, body("return 1.0"))).grade(row, "\ud800"), Score | Ungraded)


def test_a_function_that_never_ends_is_given_up_after_three_rows() -> None:
    function = PythonFunction(None, body("while True: pass"), TIGHT)
    start = time.monotonic()
    found = [function.reward(Subject({}, str(number))) for number in range(30)]
    assert time.monotonic() - start < 3 * KILLED_WITHIN_SECONDS + 1
    assert all(isinstance(one, Fault) for one in found)
    assert "given up" in found[-1].reason  # type: ignore[union-attr]


# What is refused before anything runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["socket", "subprocess", "numpy", "ctypes", "importlib", "urllib.request", "multiprocessing", "builtins", "pickle"]
)
@pytest.mark.parametrize("form", ["import {}", "import json, {} as x", "from {} import x", "    import {}"])
def test_modules_the_sandbox_lacks_are_refused_by_name(module: str, form: str) -> None:
    line = form.format(module)
    source = body(line.strip(), "return 1.0") if line.startswith(" ") else f"{line}\n{body('return 1.0')}"
    with pytest.raises(GraderRefused, match=f"imports '{module}', which the sandbox does not have") as refused:
        PythonFunction(None, source)
    assert refused.value.param == "source"


def test_what_text_similarity_does_is_pointed_to() -> None:
    with pytest.raises(GraderRefused, match="imports 'rapidfuzz'.*use a grader of type `text_similarity`"):
        PythonFunction(None, "from rapidfuzz import fuzz\n" + body("return fuzz.WRatio('a', 'b') / 100"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def grade(sample, item) -> float\n    return 1", "no Python that the sandbox knows"),
        ("def judge(sample, item):\n    return 1", "defines no function `grade"),
        ("1 / 0", "does not run: ZeroDivisionError"),
        ("", "defines no function `grade"),
        ("while True: pass", "does not run: TimeoutError"),
        ("x = [0] * 10**9", "does not run: MemoryError"),
        ("(" * 5000, "sandbox"),
    ],
)
def test_a_source_that_does_not_run_is_refused(source: str, said: str) -> None:
    with pytest.raises(GraderRefused, match=said):
        PythonFunction(None, source, TIGHT)


def test_import_statements_are_found_wherever_they_stand_and_nowhere_else() -> None:
    source = '''
"""import wrong"""
import os, json as j; import re
from a.b import c
if True: import d
x = "import e"  # import f
def grade(sample, item):
    try:
        from .g import h
    except ImportError: import i
    return lambda: 1
'''
    assert imported_modules(source) == ["os", "json", "re", "a.b", "d", ".g", "i"]
    assert imported_modules('"""never closed') == []


# What gets nowhere ------------------------------------------------------------------------------------------------------

READS = [  # each returns what it could get hold of
    "return open(PATH).read()",
    "return open(PATH, 'rb').read().decode()",
    "with open(PATH) as file: return file.readline()",
    "from pathlib import Path; return Path(PATH).read_text()",
    "from pathlib import Path; return str([str(one) for one in Path('/').iterdir()])",
    "from pathlib import Path; return str(Path(PATH).exists()) * Path(PATH).exists() + SECRET_IF_TRUE",
    "import os; return os.environ['SECRET_OF_THE_TEST']",
    "import os; return os.getenv('SECRET_OF_THE_TEST')",
    "import os; return str(os.environ)",
    "import os; return str(os.listdir('/'))",
    "import os; os.system('touch ' + PATH + '.owned'); return ''",
    "import os; os.remove(PATH); return 'SECRET removed'",
    "import os; os.rename(PATH, PATH + '2'); return 'SECRET renamed'",
    "import os; os.mkdir(PATH + '.d'); return 'SECRET made'",
    "import os; return os.popen('cat ' + PATH).read()",
    "import os; return str(os.open(PATH, 0))",
    "import os; return str(os.fork())",
    "import os; return os.readlink('/proc/self/exe')",
    "import sys; return sys.modules['os'].environ['SECRET_OF_THE_TEST']",
    "import sys; return str(sys._getframe(0).f_globals)",
    "import sys; sys.path.append('/'); return str(sys.path_importer_cache)",
    "return open('/proc/self/environ').read()",
    "return open('/proc/1/environ').read()",
    "return open('../../../../../../' + PATH).read()",
    "return open(0).read()",
    "open(PATH, 'w').write('SECRET overwritten'); return 'SECRET written'",
    "return __import__('os').environ['SECRET_OF_THE_TEST']",
    "return __builtins__['open'](PATH).read()",
    "return __builtins__.open(PATH).read()",
    "return eval('open(PATH).read()')",
    "exec('leak = open(PATH).read()'); return leak",
    "return compile('open(PATH).read()', 'x', 'eval')",
    "return ().__class__.__base__.__subclasses__()",
    "return [one for one in ''.__class__.__mro__[1].__subclasses__() if 'open' in str(one)][0](PATH).read()",
    "return grade.__globals__['__builtins__']['open'](PATH).read()",
    "return grade.__code__.co_consts",
    "return (lambda: 0).__globals__",
    "return getattr(getattr(1, '__class__'), '__mro__')",
    "return '{0.__class__.__mro__}'.format(1)",
    "return f'{grade.__globals__}'",
    "return type('X', (), {'__del__': lambda self: open(PATH)})",
    "return globals()['__loader__'].get_data(PATH)",
    "return vars()['open'](PATH)",
    "return print.__self__.open(PATH).read()",
    "return next(x for x in (1,)).__class__.__init__.__globals__",
    "try: raise ValueError\n    except ValueError as e: return str(e.__traceback__.tb_frame.f_globals)",
    "return str(input())",
    "breakpoint(); return ''",
    "help(); return ''",
    "exit(0)",
    "raise SystemExit(0)",
    "raise KeyboardInterrupt",
    "from datetime import datetime; return datetime.__reduce__(1)",
    "import json; return json.codecs.open(PATH).read()",
    "import re; return re.sys.modules['os'].environ['SECRET_OF_THE_TEST']",
    "import json; return json.__loader__.get_data(PATH)",
    "import asyncio; return asyncio.run(asyncio.open_connection('127.0.0.1', PORT))",
    "import asyncio; return asyncio.subprocess",
    "import asyncio; return asyncio.run(asyncio.create_subprocess_shell('cat ' + PATH))",
]
SOCKETS = [
    "import socket; socket.create_connection(('127.0.0.1', PORT)); return 'SECRET sent'",
    "from urllib.request import urlopen; return urlopen('http://127.0.0.1:' + str(PORT)).read()",
    "import http.client; return http.client.HTTPConnection('127.0.0.1', PORT).connect()",
    "__import__('socket').create_connection(('127.0.0.1', PORT)); return 'SECRET sent'",
    "exec('import socket; socket.create_connection((\"127.0.0.1\", PORT))'); return 'SECRET sent'",
    "import os; os.system('curl 127.0.0.1:' + str(PORT)); return ''",
]
TIME, MEMORY, OUTPUT, DEPTH = "time limit exceeded", "memory limit", f"> {TIGHT.output_bytes} bytes", "recursion"
KILLED = "worker killed after exceeding request timeout"
"""What a reason says of the bound that stopped a call."""
BOMBS: dict[str, tuple[str, ...]] = {  # by which bound each ends; a busy machine may meet the time first
    "while True: pass": (TIME,),
    "while True: print('x' * 1000)": (OUTPUT, TIME),
    "print('x' * 20_000)\n    return 1.0": (OUTPUT,),
    "for _ in range(300): print('x' * 100)\n    return 1.0": (OUTPUT,),
    "for _ in range(10**12): pass\n    return 1.0": (TIME,),
    "return grade(sample, item)": (DEPTH,),
    "return (lambda f: f(f))(lambda f: f(f))": (DEPTH,),
    "x = []\n    while True: x.append(x[:])": (MEMORY, TIME),
    "x = [0]\n    while True: x += x": (MEMORY, TIME),
    "return len('a' * 10**10)": (MEMORY,),
    "return len(b'a' * 10**10)": (MEMORY,),
    "x = 'a'\n    while True: x += x": (MEMORY, TIME),
    "return 9**9**9**9 % 7": (MEMORY,),
    "return 1 << 10**12": (MEMORY,),
    "x = 3\n    while True: x = x * x": (KILLED, TIME, MEMORY),
    "return len(str(10**10**7))": (KILLED, TIME),
    "return int('9' * 10**7)": ("Exceeds the limit (4300 digits)", TIME),
    "return sum(range(10**13))": (TIME,),
    "return len(list(range(10**12)))": (MEMORY, TIME),
    "return max(x for x in range(10**12))": (MEMORY, TIME),
    "x = {}\n    for i in range(10**10): x[i] = str(i)": (MEMORY, TIME),
    "x = ()\n    for _ in range(10**7): x = (x,)\n    return float(len(repr(x)))": (MEMORY, TIME, DEPTH),
    "import json\n    return float(len(json.loads('[' * 10**6)))": (DEPTH,),
    "import re\n    return float(bool(re.compile('(' * 10**5 + ')' * 10**5)))": ("Pattern too deeply nested",),
    "import math\n    return float(math.factorial(10**9) % 7)": (MEMORY,),
    "import itertools\n    return float(len(list(itertools.product(range(100), repeat=9))))": (MEMORY, TIME),
    "import time\n    while True: time.sleep(1)": (TIME,),
    "return float(len('%*d' % (10**9, 1)))": (MEMORY,),
    'return float(len(f"{1:{10**9}}"))': (MEMORY, TIME),
    "return float(len('x'.ljust(10**10)))": (MEMORY,),
    "return float(len('ab'.replace('', 'x' * 10**6) * 10**5))": (MEMORY,),
    "return float(len(sorted(range(10**9), key=lambda i: -i)))": (MEMORY, TIME),
    "exec('while True: pass')": (TIME,),
    "import asyncio\n    async def forever():\n        while True: await asyncio.sleep(0)\n    asyncio.run(forever())": (TIME,),
    "class Deep:\n        def __eq__(self, other): return self == other\n    return float(Deep() == Deep())": (DEPTH,),
    "return ['x' * 10**6] * 10**6": ("returned list, not a number", TIME),
}
HARMLESS = {  # what needs years or sleeps elsewhere, and what it is worth
    "import re\n    return float(bool(re.fullmatch('(a+)+b', 'a' * 60)))": 0.0,
    "import re\n    return float(bool(re.fullmatch('(a|a|b)*?c', 'ab' * 60)))": 0.0,
    "import time\n    time.sleep(10**9)\n    return 1.0": 1.0,
    "print('x' * 5_000)\n    return 0.5": 0.5,
}


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """A listening socket that nobody may knock at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.0)
        yield listening


def attempted(source: str) -> Outcome | GraderRefused:
    try:
        return outcome(source)
    except GraderRefused as refused:
        return refused


def test_the_corpus_is_large_enough() -> None:
    assert len(READS) + len(SOCKETS) + len(BOMBS) + len(HARMLESS) >= 100


@pytest.mark.parametrize("line", READS + SOCKETS)
def test_no_secret_is_read_and_no_door_is_knocked_at(
    line: str, tmp_path: Path, door: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET, encoding="utf-8")
    monkeypatch.setenv("SECRET_OF_THE_TEST", SECRET)
    before = os.environ.copy()
    head = f"PATH = {str(secret)!r}\nPORT = {door.getsockname()[1]}\nSECRET_IF_TRUE = ''\n"
    # whatever it gets hold of is looked at inside, so that a number tells about it, and shown, so that a reason would
    source = (
        head
        + body(line).replace("def grade", "def attempt")
        + (
            "def grade(sample, item):\n"
            "    found = str(attempt(sample, item))\n"
            f"    if {SECRET[:15]!r} in found or 'SECRET' in found: return 1.0\n"
            "    raise ValueError(found)\n"
        )
    )
    found = attempted(source)
    assert isinstance(found, Fault | GraderRefused), found
    assert SECRET not in str(found)
    assert secret.read_text(encoding="utf-8") == SECRET
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]
    assert os.environ.copy() == before
    with pytest.raises(BlockingIOError):
        door.accept()


@pytest.mark.parametrize(("line", "bounds"), BOMBS.items())
def test_bombs_are_stopped_in_time_by_the_bound_that_they_break(line: str, bounds: tuple[str, ...]) -> None:
    function = PythonFunction(None, body(line), TIGHT)
    start = time.monotonic()
    found = function.reward(Subject({}, "Paris"))
    assert time.monotonic() - start < KILLED_WITHIN_SECONDS
    assert isinstance(found, Fault), found
    assert found.trouble is (Trouble.PYTHON_SERVER if KILLED in found.reason else Trouble.PYTHON_RUN)
    assert any(bound in found.reason for bound in bounds), found.reason
    assert (OUTPUT in found.reason) <= (OUTPUT in bounds)  # a memory limit of its own


@pytest.mark.parametrize(("line", "value"), HARMLESS.items())
def test_what_only_looks_like_a_bomb_is_graded(line: str, value: float) -> None:
    start = time.monotonic()
    assert outcome(body(line)) == Reward(value)
    assert time.monotonic() - start < KILLED_WITHIN_SECONDS


def test_after_all_this_an_honest_function_still_runs() -> None:
    for line in ("while True: pass", "return grade(sample, item)", "return len('a' * 10**10)"):
        outcome(body(line))
    assert outcome(body("return 0.5")) == Reward(0.5)


WITHOUT = """
import sys
sys.modules["pydantic_monty"] = sys.modules["re2"] = None  # as if they were not installed
from stepladder.data.patterns import linear_matcher
from stepladder.domain.errors import MissingExtra
from stepladder.evaluation.graders import from_openai
from stepladder.evaluation.graders.regex import Regex
try:
    from_openai({"type": "python", "source": "def grade(sample, item): return 1.0"})
except MissingExtra as error:
    print(error)
print(linear_matcher("a+"), Regex("a+").grade(None, "aaa").value, Regex("a+").grade(None, "b").value)
"""


def test_without_the_extra_functions_are_refused_by_what_to_install_and_patterns_still_match() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.stderr == ""
    missing, patterns = done.stdout.splitlines()
    assert missing == ("pydantic-monty, which runs python graders, is not installed. Run: pip install 'stepladder[graders]'")
    assert patterns == "None 1.0 0.0"
