from tests.faults import test_bad_input
from tests.on_ray.again import again

FRAMES = "what a link is sent is the server's own affair, whichever engine it has"
WITHOUT = {
    "test_garbage_closes_the_connection_it_came_on_and_no_other": FRAMES,
    "test_a_frame_that_is_too_big_is_refused_before_it_is_read": FRAMES,
    "test_a_client_of_another_version_is_told_both": FRAMES,
    "test_two_servers_on_one_state_directory": FRAMES,
    "test_a_result_after_its_retention": "so is how long its store keeps a result",
}

globals().update(again(test_bad_input, without=WITHOUT))
