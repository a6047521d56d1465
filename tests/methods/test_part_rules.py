"""Parts of a mixed compression, as text and as table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.core.errors import UsageError
from onnxcompress.encodings._base import PROJECTIONS
from onnxcompress.encodings.additive import Sum
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.lowrank import FixedRank, LearnedRank
from onnxcompress.encodings.scaled import Binary
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.encodings.trellis import TrellisCodebook
from onnxcompress.methods._rules import Rule, Term, read_rule, settings_of


@pytest.mark.parametrize(
    ("text", "which", "joint", "projection"),
    [
        ("fc1*=prune(count=5000)", ("fc1*",), False, Pruning(count=5000)),
        ("fc1* = prune( keep = 0.05 )", ("fc1*",), False, Pruning(0.05)),
        ("*=binary", ("*",), False, Binary()),
        ("op:Conv=codebook(bits=2)", ("op:Conv",), False, AdaptiveCodebook(4)),
        ("w=trellis(bits=2)", ("w",), False, TrellisCodebook(2)),
        ("*=trellis(bits=1)+prune(keep=0.02)", ("*",), False, Sum((TrellisCodebook(1), Pruning(0.02)))),
        ("a|op:Gemm|b=low-rank(rank=10)", ("a", "op:Gemm", "b"), False, FixedRank(10)),
        ("a=b=c=prune(keep=1)", ("a=b=c",), False, Pruning(1)),
        ('w=rank(keep=0.3, scheme="1")', ("w",), False, LearnedRank(keep=0.3, scheme="1")),
        (
            "*=codebook(entries=2, joint=true)+prune(keep=0.01)",
            ("*",),
            True,
            Sum((AdaptiveCodebook(2), Pruning(0.01))),
        ),
        (
            "w=codebook(entries=4, group-size=32)",
            ("w",),
            False,
            AdaptiveCodebook(4, granularity="group", group_size=32),
        ),
        ("w=codebook(entries=4, pin_zero=true)", ("w",), False, AdaptiveCodebook(4, pin_zero=True)),
    ],
)
def test_texts(text, which, joint, projection):
    rule = read_rule(text)
    assert (rule.which, rule.joint, rule.projection()) == (which, joint, projection)
    assert read_rule(str(rule)) == rule


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"weights": "fc1*", "compression": "prune", "count": 5000}, "fc1*=prune(count=5000)"),
        (
            {"weights": ["a", "b"], "compression": "codebook", "entries": 2, "joint": True},
            "a|b=codebook(entries=2, joint=true)",
        ),
        ({"operators": ["Conv"], "compression": "half", "kind": "bf16"}, "op:Conv=half(kind=bf16)"),
        ({"compression": "binary"}, "*=binary"),
        (
            {
                "compression": "codebook",
                "entries": 2,
                "joint": True,
                "plus": [{"compression": "prune", "keep": 0.01}],
            },
            "*=codebook(entries=2, joint=true)+prune(keep=0.01)",
        ),
    ],
)
def test_tables_say_the_same_as_texts(table, text):
    assert str(read_rule(table)) == text
    assert read_rule(table) == read_rule(text)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ("fc1", "cannot read the part 'fc1'"),
        ("fc1=", "cannot read the part"),
        ("=prune(keep=1)", "cannot read the part"),
        ("fc1=prune(keep=0.1", "cannot read the part"),
        ("fc1=prune(keep)", "cannot read 'keep'"),
        ("fc1=prun(keep=0.1)", "no compression 'prun'; did you mean 'prune'"),
        ("fc1=prune(kepp=0.1)", "no setting 'kepp'; did you mean 'keep'"),
        ("fc1=prune(keep=2)", "keep must be over 0 and at most 1"),
        ("fc1=prune(keep=all)", "keep of prune must be a number"),
        (
            "fc1=prune(keep=0.5, keep=0.1)",
            "the part 'fc1=prune(keep=0.5, keep=0.1)' gives keep twice: found 0.5 and 0.1",
        ),
        ("*=codebook(entries=2, joint=true, joint=false)", "gives joint twice: found true and false"),
        ("w=codebook(entries=4, group-size=8, group_size=9)", "gives group_size twice: found 8 and 9"),
        ("fc1=prune(keep=true)", "keep of prune must be a number"),
        ("fc1=prune", "either keep or count"),
        ("fc1=codebook", "compression 'codebook' needs entries"),
        ("fc1=codebook(bits=9)", "bits of codebook must be 1 to 8: found 9"),
        ("fc1=trellis(bits=5)", "bits of a trellis must be 1 to 4: found 5"),
        ("fc1=trellis(bits=2, entries=4)", "has no setting 'entries'"),
        ("fc1=codebook(bits=0)", "bits of codebook must be 1 to 8"),
        ("fc1=codebook(bits=99999999999)", "bits of codebook must be 1 to 8"),
        ("fc1=codebook(entries=257)", "entries must be 2 to 256"),
        ("fc1=codebook(bits=2, group_size=0)", "group_size must be positive"),
        ("fc1=binary(group_size=-3)", "group_size must be positive"),
        ("fc1=pow2(group_size=0)", "group_size must be positive"),
        ("fc1=codebook(bits=2, granularity=channel, group_size=8)", "group_size contradicts granularity"),
        ("fc1=int(entries=2, granularity=tensor, group_size=8)", "group_size contradicts granularity"),
        ("fc1=int(entries=2, symmetric=true)", "entries must be 3 to 256"),
        ("fc1=codebook(bits=2, entries=4)", "bits and entries"),
        ("fc1=codebook(entries=2, axis=1)", "no setting 'axis'"),
        ("fc1=codebook(entries=2, granularity=row)", "granularity of codebook must be one of"),
        ("fc1=codebook(entries=2, granularity=group)", "needs group_size"),
        ("fc1=low-rank(rank=2, layouts=1)", "no setting 'layouts'"),
        ("fc1=low-rank(rank=2, joint=true)", "low-rank cannot be joint"),
        ("fc1=binary(granularity=channel, joint=true)", "binary cannot be joint"),
        ("fc1=prune(keep=0.1, joint=yes)", "joint of a part must be true or false"),
        ("fc1=rank(keep=0.3)+prune(keep=0.1)", "learned ranks cannot be part of a sum"),
        ({"weights": "fc1", "count": 3}, "needs a compression"),
        ({"weights": 3, "compression": "half"}, "weights of a part must be a text"),
        ({"weights": "a|b", "compression": "half"}, "cannot hold '|'"),
        ({"compression": "half", "plus": {"compression": "half"}}, "plus of a part must be a list"),
        ({"compression": "half", "plus": [{}]}, "needs a compression"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(given_, words):
    with pytest.raises(UsageError) as caught:
        read_rule(given_)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_compression_has_settings_that_can_be_written():
    for word, kind in PROJECTIONS.items():
        for name in settings_of(kind):
            assert name not in ("joint", "plus", "weights", "operators", "compression"), word


names = st.text("abcxyz/._*?[]:0123", min_size=1, max_size=12).filter(lambda t: t.strip() == t)
values = st.booleans() | st.integers(-5, 99) | st.floats(0, 1) | st.text("ab,()= 1", max_size=5)
terms = st.builds(
    lambda settings: Term("half", tuple(settings.items())),
    st.dictionaries(st.sampled_from(["keep", "rank", "kind"]), values, max_size=3),
)


@given(which=st.lists(names, min_size=1, max_size=3), several=st.lists(terms, min_size=1, max_size=3))
def test_a_rule_is_read_as_it_was_written(which, several):
    from onnxcompress.methods._rules import _of_text

    rule = Rule(tuple(which), tuple(several), joint=len(which) > 1)
    parenthesised = any("(" in str(v) or ")" in str(v) for t in several for _, v in t.settings)
    if not parenthesised:  # no setting there is has a value with parentheses
        assert _of_text(str(rule)) == rule


def test_a_word_that_looks_like_a_number_is_read_as_the_word():
    given, quoted = (read_rule(f"w=low-rank(rank=3, scheme={s})").projection() for s in ("2", '"2"'))
    assert given == quoted
    assert given.scheme == "2"
    with pytest.raises(UsageError, match="scheme of low-rank must be one of auto, 1, 2: found 7"):
        read_rule("w=low-rank(rank=3, scheme=7)")
