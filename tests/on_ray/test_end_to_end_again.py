from tests.client import test_end_to_end
from tests.on_ray.again import again

globals().update(again(test_end_to_end, without={}))
