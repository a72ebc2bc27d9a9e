from tests.faults import test_gangs
from tests.on_ray.again import again

WITHOUT = {
    "two_processors": "a node has as many as Ray was told",
    "test_a_gang_larger_than_the_machine_says_what_fits": "more fit here: test_room has it",
    "test_gangs_survive_whatever_is_killed_under_them": "test_chaos has it, with a server that stays",
    "test_an_embedded_server_that_is_killed_loses_no_gang": "one that stays is started again by who started it",
}

globals().update(again(test_gangs, without=WITHOUT))
