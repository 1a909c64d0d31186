"""The protobuf messages of ORCA, by which a server reports its load to gRPC's and Envoy's load balancers.

They are described here because the package that ships them, xds-protos, overwrites files of other packages. Field
`rps` is left out: `rps_fractional` has taken its place.
"""

from typing import Any

from google.protobuf import descriptor_pool, duration_pb2, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

DATA, SERVICE = "xds.data.orca.v3", "xds.service.orca.v3"

NUMBERS = {"cpu_utilization": 1, "mem_utilization": 2, "rps_fractional": 6, "eps": 7, "application_utilization": 9}
MAPS = {"request_cost": 4, "utilization": 5, "named_metrics": 8}
"""Fields that map names to numbers."""


def _field(name: str, number: int, kind: str, *, repeated: bool = False) -> FieldDescriptorProto:
    """Returns a field. `kind` is a message type's full name with a dot before it, or a scalar type's name."""
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    if kind.startswith("."):
        message = FieldDescriptorProto.TYPE_MESSAGE
        return FieldDescriptorProto(name=name, number=number, label=label, type=message, type_name=kind)
    scalar = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    return FieldDescriptorProto(name=name, number=number, label=label, type=scalar)


def _report() -> DescriptorProto:
    report = DescriptorProto(name="OrcaLoadReport")
    report.field.extend(_field(name, number, "double") for name, number in NUMBERS.items())
    for name, number in MAPS.items():
        entry = "".join(part.title() for part in name.split("_")) + "Entry"
        nested = report.nested_type.add(name=entry, field=[_field("key", 1, "string"), _field("value", 2, "double")])
        nested.options.map_entry = True
        report.field.append(_field(name, number, f".{DATA}.OrcaLoadReport.{entry}", repeated=True))
    return report


def _files() -> tuple[FileDescriptorProto, FileDescriptorProto]:
    data = FileDescriptorProto(name="xds/data/orca/v3/orca_load_report.proto", package=DATA, syntax="proto3")
    data.message_type.append(_report())
    service = FileDescriptorProto(name="xds/service/orca/v3/orca.proto", package=SERVICE, syntax="proto3")
    service.dependency.extend([data.name, duration_pb2.DESCRIPTOR.name])
    asked = [_field("report_interval", 1, ".google.protobuf.Duration")]
    asked.append(_field("request_cost_names", 2, "string", repeated=True))
    service.message_type.add(name="OrcaLoadReportRequest", field=asked)
    method = service.service.add(name="OpenRcaService").method.add(name="StreamCoreMetrics", server_streaming=True)
    method.input_type, method.output_type = f".{SERVICE}.OrcaLoadReportRequest", f".{DATA}.OrcaLoadReport"
    return data, service


def _message(name: str) -> Any:  # noqa: ANN401 - a class that is made here and now
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


_pool = descriptor_pool.Default()  # the pool that reflection reads
for _file in _files():
    _pool.AddSerializedFile(_file.SerializeToString())

OrcaLoadReport = _message(f"{DATA}.OrcaLoadReport")
OrcaLoadReportRequest = _message(f"{SERVICE}.OrcaLoadReportRequest")
OPEN_RCA_SERVICE = f"{SERVICE}.OpenRcaService"
