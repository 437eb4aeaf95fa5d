"""A gRPC service of many shapes. Prints its port, then what it sees of calls that clients take back."""

import sys
import threading
import time
from concurrent import futures

import grpc


def same(value):
    return value


def told(context):
    """What the client said of itself, less what the transport adds."""
    ours = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-test")]
    return tuple((key.replace("x-test", "x-echo"), value) for key, value in ours)


def unary(request, context):
    context.send_initial_metadata(told(context) + (("x-first", "initial"),))
    context.set_trailing_metadata((("x-last", "trailing"), ("x-last-bin", bytes(range(256)))))
    return request + b"!"


def fail(request, context):
    context.set_trailing_metadata((("x-why-bin", b"\x00\xff"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: ü, 100 %")


def stream_down(request, context):
    for number in range(int(request)):
        yield b"%d" % number * 1000
    context.set_trailing_metadata((("x-count", request.decode()),))


def stream_up(requests, context):
    count = total = 0
    for request in requests:
        count, total = count + 1, total + len(request)
    return b"%d %d" % (count, total)


def chat(requests, context):
    for request in requests:
        yield b"you said " + request


def early(requests, context):
    """Answers after the first of many messages."""
    next(requests)
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")


def slow(request, context):
    left = context.time_remaining()
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(30)
    print("ended slow", "with a deadline" if left is not None and left < 20 else "without one", flush=True)
    return b"late"


def watch(request, context):
    ended = threading.Event()
    context.add_callback(lambda: (print("ended watch", flush=True), ended.set()))
    yield b"first"
    ended.wait(30)


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, same, same),
    "Fail": grpc.unary_unary_rpc_method_handler(fail, same, same),
    "Slow": grpc.unary_unary_rpc_method_handler(slow, same, same),
    "Down": grpc.unary_stream_rpc_method_handler(stream_down, same, same),
    "Watch": grpc.unary_stream_rpc_method_handler(watch, same, same),
    "Up": grpc.stream_unary_rpc_method_handler(stream_up, same, same),
    "Early": grpc.stream_unary_rpc_method_handler(early, same, same),
    "Chat": grpc.stream_stream_rpc_method_handler(chat, same, same),
}

server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=32),
    options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)],
)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Shapes", METHODS),))
wanted = sys.argv[1] if len(sys.argv) > 1 else "0"
port = server.add_insecure_port("127.0.0.1:" + wanted)
server.start()
print("port", port, flush=True)
server.wait_for_termination()
