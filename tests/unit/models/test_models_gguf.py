"""A GGUF header is believed only as far as the file goes."""

from __future__ import annotations

import struct

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.domain.errors import ModelError
from stepladder.models.gguf import TENSOR_TYPES, read_header
from tiny_gguf import build_tiny_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    return build_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "x.gguf"


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def tensor(name: str, *, shape=(32,), kind=0, offset=0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(*tensors: bytes, entries: bytes = b"", entry_count: int = 0, tensor_count: int | None = None, data: int = 256) -> bytes:
    count = len(tensors) if tensor_count is None else tensor_count
    head = b"GGUF" + struct.pack("<IQQ", 3, count, entry_count) + entries + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


def test_a_sound_file_is_read_as_the_gguf_package_reads_it(tiny_gguf):
    header = read_header(tiny_gguf)
    theirs = gguf.GGUFReader(tiny_gguf)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert dict(header.metadata) == fields
    ours = {(t.name, t.shape, t.type_name, t.offset, t.size_bytes) for t in header.tensors}
    assert ours == {
        (t.name, tuple(int(n) for n in t.shape), t.tensor_type.name, int(t.data_offset), int(t.n_bytes)) for t in theirs.tensors
    }
    assert header.quantisation == "Q4_1"


def test_the_sizes_of_tensor_types_are_ggmls():
    for number, (name, elements, size) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (elements, size))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"GGUF", "runs past the end"),
        (b"PK\3\4" + bytes(64), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version is 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "claims 1099511627776 tensors"),
        (file(tensor_count=5), "runs past the end|dimensions"),
        (file(tensor("a", offset=4096)), "tensor 'a' lies outside the file"),
        (file(tensor("a", offset=2**63)), "tensor 'a' lies outside the file"),
        (file(tensor("a", offset=7)), "tensor 'a' lies outside the file or between"),
        (file(tensor("a", shape=(2**40, 2**40))), "tensor 'a' lies outside the file"),
        (file(tensor("a"), tensor("b", offset=96)), "tensors 'a' and 'b' overlap"),
        (file(tensor("a"), tensor("a", offset=128)), "two tensors share a name"),
        (file(tensor("a", shape=())), "tensor 'a' has 0 dimensions"),
        (file(tensor("a", shape=(0, 4))), "impossible shape"),
        (file(tensor("a", shape=(33,), kind=3)), "impossible shape"),
        (file(tensor("a", kind=4)), "unknown type 4"),
        (file(entries=struct.pack("<Q", 2**62), entry_count=1), "runs past the end"),
        (file(entries=string("k") + struct.pack("<IIQ", 9, 8, 2**50), entry_count=1), "an array claims"),
        (file(entries=string("k") + struct.pack("<IIQ", 9, 4, 2**50), entry_count=1), "runs past the end"),
        (file(entries=string("k") + struct.pack("<I", 99), entry_count=1), "unknown type 99"),
        (file(entries=2 * (string("k") + struct.pack("<IB", 7, 1)), entry_count=2), "'k' stands twice"),
        (file(entries=string("general.alignment") + struct.pack("<II", 4, 0), entry_count=1), "alignment is 0"),
        (file(entries=string("k") + 3 * struct.pack("<IIQ", 9, 9, 1)[:12] + bytes(64), entry_count=1), "nested|end|type|claims"),
    ],
)
def test_a_lying_header_is_refused_with_the_lie(content, reason, scratch):
    scratch.write_bytes(content)
    with pytest.raises(ModelError, match=f"x.gguf: not .*GGUF file.*({reason})"):
        read_header(scratch)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        read_header(tmp_path / "nothing.gguf")


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_no_mutation_brings_anything_but_a_header_inside_the_file_or_a_typed_error(tiny_gguf, tmp_path_factory, data):
    raw = bytearray(tiny_gguf.read_bytes())
    info_end = raw.find(b"blk.1.ffn_down") + 64
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 200) | st.integers(info_end - 1500, info_end) | st.integers(0, len(raw) - 9))
        patch = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x01" + b"\0" * 7]))
        raw[place : place + len(patch)] = patch
    raw = raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))]
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except ModelError:
        return
    assert all(t.offset + t.size_bytes <= len(raw) for t in header.tensors)
