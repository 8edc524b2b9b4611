"""Opens a case and reads it back with Python's grpcio, knowing nothing of Okno but what reflection tells."""

import os
import sys
import time
import uuid

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def read(name):
    with open(os.environ[name], "rb") as file:
        return file.read()


def uuid7():
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))


credentials = grpc.ssl_channel_credentials(read("OKNO_CA"), read("OKNO_KEY"), read("OKNO_CERT"))
with grpc.secure_channel(os.environ["OKNO_ENDPOINT"], credentials) as channel:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("okno.v1.CaseService")

    def call(name, **fields):
        method = service.FindMethodByName(name)
        request = GetMessageClass(method.input_type)(**fields)
        stub = channel.unary_unary(
            f"/{service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return stub(request, timeout=30)

    opened = call(
        "OpenCase",
        meta={"request_id": uuid7()},
        office=os.environ["OKNO_OFFICE"],
        service=os.environ["OKNO_SERVICE"],
        applicants=[
            {
                "person": {
                    "name": {"last_name": "Посетителев", "first_name": "Пример"},
                    "birth_date": "1980-02-29",
                    "snils": os.environ["OKNO_SNILS"],
                    "identity": {
                        "kind": "passport",
                        "series": "0000",
                        "number": "000002",
                        "issued_on": "2010-03-01",
                        "issued_by": "Вымышленным отделом",
                    },
                }
            }
        ],
    )
    found = call("GetCase", case_id=opened.case_id)
    if found.case.case_id != opened.case_id:
        sys.exit(f"opened {opened.case_id}, read {found.case.case_id}")
    print(f"grpcio opened case {opened.case_id}")
