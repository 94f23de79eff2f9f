"""The syntax of the option, and what its errors say."""

import pytest

from slipstream.base.errors import InputError
from slipstream.speculate.choose import choose


def test_a_name_with_options():
    assert choose("ngram").max_draft == 8
    options = choose("ngram:longest=5,nodes=3").options
    assert (options.shortest, options.longest, options.nodes) == (2, 5, 3)
    assert choose("suffix:others=true,share=0.25").options.share == 0.25
    assert choose("draft_model:path=/a/b:c,nodes=2").options.path == "/a/b:c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ngrm", "did you mean 'ngram'"),
        ("ngram:longst=3", "did you mean 'longest'"),
        ("ngram:longest", "'longest' is not KEY=VALUE; options of ngram: shortest, longest, nodes"),
        ("ngram:longest=x", "longest='x' must be int"),
        ("suffix:others=yes", "others='yes' must be true or false"),
        ("ngram:longest=1", "longest=1 must be at least shortest=2"),
        ("ngram:nodes=0", "nodes=0 must be at least 1"),
        ("none:nodes=1", "choose a drafter"),
    ],
)
def test_errors_lead_out(text, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        choose(text)


def test_a_path_needs_no_key():
    assert choose("eagle:/a/b:c,nodes=2").options == choose("eagle:path=/a/b:c,nodes=2").options
