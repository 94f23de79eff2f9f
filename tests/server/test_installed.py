"""Whether the server's own dependencies are there; without them the other tests of this folder are not collected."""

import pytest

from tests.server.conftest import MISSING


def test_the_server_s_dependencies_are_installed():
    if MISSING:
        pytest.skip(f"the server is not tested: {', '.join(MISSING)} not installed; pip install 'slipstream[server,test]'")
    from slipstream.server.app import make_app

    assert callable(make_app)
