"""What a rank finds in its environment, and that it is gone after."""

from __future__ import annotations

import json
import os
import socket

import pytest

from stoker.runner.seats import Seats, environment
from stoker.types import GangSeat

SEAT = GangSeat("g1", 2, ["a:1", "a:2", "b:3", "b:4"], ["n1", "n1", "n2", "n2"])


def test_ranks_know_their_place_on_their_own_node() -> None:
    found = environment(SEAT)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("a", "1")
    assert (found["RANK"], found["WORLD_SIZE"]) == ("2", "4")
    assert (found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"], found["NODE_RANK"]) == ("0", "2", "1")
    assert (found["OMPI_COMM_WORLD_RANK"], found["OMPI_COMM_WORLD_LOCAL_RANK"], found["PMI_SIZE"]) == ("2", "0", "4")
    assert json.loads(found["TF_CONFIG"]) == {
        "cluster": {"worker": SEAT.addresses},
        "task": {"type": "worker", "index": 2},
    }


def test_the_environment_is_as_it_was_after_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "mine")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    seats = Seats()
    seats.enter(SEAT)
    assert os.environ["RANK"] == "2"
    seats.leave()
    assert os.environ["RANK"] == "mine"
    assert "WORLD_SIZE" not in os.environ


def test_a_port_is_kept_free_until_the_call_begins() -> None:
    seats = Seats()
    port = seats.gather()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    seats.enter(SEAT)
    with socket.socket() as own:
        own.bind(("127.0.0.1", port))
        own.listen()
    seats.leave()


def test_looking_again_lets_go_of_the_port_before() -> None:
    seats = Seats()
    before = seats.gather()
    seats.gather()
    with socket.socket() as other:
        other.bind(("127.0.0.1", before))
    seats.enter(SEAT)
    seats.leave()
