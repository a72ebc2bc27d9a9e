from __future__ import annotations

import subprocess
import sys
import types

import stoker

PUBLIC = [
    "App",
    "Batch",
    "Call",
    "CallCancelled",
    "CallError",
    "CallInfo",
    "CallState",
    "CallTimeout",
    "Cls",
    "ConnectionFailed",
    "DeadlineExceeded",
    "File",
    "Function",
    "FunctionOptions",
    "Gang",
    "GangInfo",
    "Image",
    "ImageBuildError",
    "InterpreterNotFound",
    "InvalidOption",
    "InvalidRequest",
    "LocalEntrypoint",
    "NotFound",
    "NotRunning",
    "OutOfMemory",
    "Overloaded",
    "PermissionDenied",
    "RateLimited",
    "RemoteError",
    "RemoteValue",
    "Request",
    "Response",
    "ResultExpired",
    "Retries",
    "SerializationError",
    "StartupError",
    "StokerError",
    "StoreError",
    "TimelineEntry",
    "Unschedulable",
    "VersionMismatch",
    "WorkerLost",
    "__version__",
    "call_info",
    "enable_output",
    "asgi_app",
    "endpoint",
    "web_server",
    "wsgi_app",
    "enter",
    "exit",
    "gang_info",
    "gather",
    "healthy",
    "method",
    "parameter",
]


def test_the_public_names_are_these() -> None:
    assert sorted(stoker.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(stoker, name) is not None
        assert name in dir(stoker)


def test_nothing_public_is_a_module_but_what_is_meant_to_be() -> None:
    assert not [name for name in PUBLIC if isinstance(getattr(stoker, name), types.ModuleType)]
    assert isinstance(stoker.clusters, types.ModuleType)
    assert "clusters" in dir(stoker)


def test_the_clusters_are_these() -> None:
    assert sorted(stoker.clusters.__all__) == ["RayCluster", "dask", "ray"]


def test_a_cluster_imports_its_system_when_it_is_made() -> None:
    code = "import sys, stoker; stoker.clusters.dask; print([m for m in sys.modules if m in ('distributed', 'ray')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_an_import_loads_nothing_before_it_is_used() -> None:
    code = "import sys, stoker; print([m for m in sys.modules if m.startswith('stoker.client')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
