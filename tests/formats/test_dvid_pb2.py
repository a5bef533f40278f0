"""The generated module says what dvid.proto says, and that is what DVID's clients expect on the wire."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from dvid_dask.formats import dvid_pb2

PROTO = Path(dvid_pb2.__file__).with_name("dvid.proto")


def test_generated_from_the_file_beside_it(tmp_path):
    pytest.importorskip("grpc_tools")
    out = tmp_path / "set.bin"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO.parent}", f"--descriptor_set_out={out}", PROTO.name],
        check=True,
    )
    (fresh,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    ours = descriptor_pb2.FileDescriptorProto.FromString(dvid_pb2.DESCRIPTOR.serialized_pb)
    for descriptor in (fresh, ours):
        descriptor.ClearField("source_code_info")
        _drop_json_names(descriptor.message_type)
    assert fresh == ours


def _drop_json_names(messages):
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _drop_json_names(message.nested_type)


def test_numbers_and_types():
    def fields(name):
        return {f.number: f.name for f in dvid_pb2.DESCRIPTOR.message_types_by_name[name].fields}

    assert dvid_pb2.DESCRIPTOR.package == "proto"
    assert fields("LabelIndex") == {
        1: "blocks",
        2: "label",
        3: "last_mutid",
        4: "last_mod_time",
        5: "last_mod_user",
        6: "last_mod_app",
    }
    assert fields("SplitOp") == {1: "mutid", 2: "target", 3: "newlabel", 4: "coarse", 5: "rles", 6: "svsplits"}
    assert fields("MappingOp") == {1: "mutid", 2: "mapped", 3: "original"}
    assert fields("KeyRange") == {1: "key", 2: "byte_start", 3: "byte_end"}
    ops = dvid_pb2.MappingOps(mappings=[dvid_pb2.MappingOp(mutid=1, mapped=2, original=[3, 300])])
    assert ops.SerializeToString().hex() == "0a09080110021a0303ac02"
