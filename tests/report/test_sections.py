"""What the sections say: honest words for each outcome."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from example import KINDS, bare, compare_three, compress, failing, inspect, large, sparse

from onnxcompress.core.refusal import Refusal
from onnxcompress.core.run import LatencyRatio, Run
from onnxcompress.report import render
from onnxcompress.report.document import document
from onnxcompress.report.sections._base import SECTIONS
from onnxcompress.report.tree import (
    Block,
    Callout,
    Figure,
    Figures,
    Histograms,
    Lines,
    Name,
    Names,
    Paragraph,
    Quantity,
    Table,
)


def said(blocks: tuple[Block, ...]) -> str:
    """Return the words of paragraphs and callouts."""
    words = []
    for block in blocks:
        if isinstance(block, (Paragraph, Callout)):
            words.append(getattr(block, "title", ""))
            words += [p if isinstance(p, str) else getattr(p, "text", "") for p in block.parts]
    return "".join(words)


def section(run: Run, name: str) -> tuple[Block, ...]:
    found = SECTIONS[name]
    assert found.applies(run)
    return found.build(run)


def warned(run: Run) -> dict[str, str]:
    """Return title -> level of the callouts."""
    if not SECTIONS["warnings"].applies(run):
        return {}
    return {b.title: b.level for b in section(run, "warnings") if isinstance(b, Callout)}


def with_ratio(ratio: LatencyRatio) -> Run:
    run = compress()
    assert run.benchmark is not None
    return replace(run, benchmark=replace(run.benchmark, ratios=(ratio,)))


def test_a_loss_that_rests_on_a_guess_is_a_note_said_once() -> None:
    run = compress()
    title = "The loss rests on a guess"
    assert title not in warned(run)
    training = next(m.training for m in run.methods if m.training is not None)
    guessed = replace(training, labelled=False, loss="kl+0.1*l2", assumed_scores=("scores",))
    method = replace(run.methods[0], training=guessed)
    run = replace(run, methods=(replace(method, name="vib"), replace(method, name="finetune")))
    callouts = [b for b in section(run, "warnings") if isinstance(b, Callout) and b.title == title]
    assert [callout.level for callout in callouts] == ["note"]
    text = said(tuple(callouts))
    assert "Output scores was taken for scores of classes (loss kl+0.1*l2 in vib and finetune)" in text
    assert "give --loss l2; if it is scores, --loss kl+0.1*l2 settles it." in text
    assert Run.from_json(run.to_json()) == run
    assert not run.warnings or all("guess" not in warning for warning in run.warnings)


def test_summary_of_the_same_speed_is_honest() -> None:
    text = said(section(compress(), "summary"))
    assert "15.0 times smaller" in text
    assert "Smaller file; same speed: codebook weights are decoded once when the model is loaded." in text
    assert "at most 8.32 % (relative error) on 10,000 inputs" in text
    assert "97.87 % to 97.76 %" in text
    assert "faster" not in text


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (LatencyRatio("c", 0.5, 0.45, 0.55, "faster"), "2.00 times as fast"),
        (LatencyRatio("c", 1.31, 1.2, 1.4, "slower"), "slower: 1.31 times the time"),
    ],
)
def test_summary_tells_a_difference_in_speed(ratio: LatencyRatio, words: str) -> None:
    text = said(section(with_ratio(ratio), "summary"))
    assert words in text
    assert "same speed" not in text


def test_same_speed_is_not_claimed_for_a_file_that_grew() -> None:
    run = compress()
    grown = replace(run, models=(run.models[0], replace(run.models[1], size_bytes=2_000_000)))
    text = said(section(grown, "summary"))
    assert "grew by 87.2 %" in text
    assert "Smaller file" not in text


@pytest.mark.parametrize(("change", "words"), [(-900, "900 bytes fewer"), (900, "900 bytes more")])
def test_a_few_bytes_are_no_compression(change: int, words: str) -> None:
    run = compress()
    size = run.models[0].size_bytes + change
    same = replace(run, models=(run.models[0], replace(run.models[1], size_bytes=size)))
    text = said(section(same, "summary"))
    assert f"nearly the same size: {words}" in text
    assert "times smaller" not in text
    assert "grew" not in text


def test_summary_says_what_was_not_measured() -> None:
    text = said(section(bare("compress"), "summary"))
    assert "Accuracy was not measured" in text
    assert "Latency was not measured" in text
    figures = section(bare("compress"), "summary")[0]
    assert isinstance(figures, Figures)
    assert [f.value.known for f in figures.figures] == [True, False, False, False]


def test_a_drop_within_noise_is_not_marked() -> None:
    run = compress()
    assert run.accuracy is not None

    def tone(after: float) -> str:
        assert run.accuracy is not None
        figures = section(replace(run, accuracy=replace(run.accuracy, after=after)), "summary")[0]
        assert isinstance(figures, Figures)
        return figures.figures[2].tone

    assert tone(0.9776) == "plain"
    assert tone(0.95) == "bad"
    assert tone(0.99) == "good"


def test_outputs_far_away_are_marked_where_accuracy_is_not_known() -> None:
    run = replace(compress(), accuracy=None)

    def figure(error: float, agreement: float) -> Figure:
        first, second = run.comparisons
        output = replace(first.outputs[0], relative_l2=error, top1_agreement=agreement)
        changed = replace(run, comparisons=(replace(first, outputs=(output,)), second))
        figures = section(changed, "summary")[0]
        assert isinstance(figures, Figures)
        return figures.figures[1]

    assert figure(0.08, 0.99).tone == "plain"
    assert figure(0.52, 0.99).tone == "bad"
    assert figure(0.08, 0.0).tone == "bad"
    assert "top-1 agreement 99.21 %" in figure(0.08, 0.99213).detail


def test_loud_marks() -> None:
    assert warned(failing()) == {
        "A limit does not hold": "danger",
        "Verification failed": "danger",
        "The file grew": "danger",
        "Trained on random data": "danger",
        "Random inputs": "warning",
        "": "warning",
    }
    assert warned(bare("compress")) == {"Nothing was measured": "danger"}
    assert warned(replace(compress(), warnings=())) == {}


def test_that_the_file_grew_is_said_once() -> None:
    run = compress()
    larger = replace(run.models[1], size_bytes=run.models[0].size_bytes + 2)
    grown = replace(run, models=(run.models[0], larger), warnings=("the file grew: 12 bytes, 10 before",))
    assert warned(grown) == {"The file grew": "danger"}
    assert "2 bytes more" in said(section(grown, "warnings"))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "compress"])
def test_other_kinds_are_not_warned_of_what_they_do_not_measure(kind: str) -> None:
    assert warned(bare(kind)) == {}


def test_few_bits_without_training_are_marked() -> None:
    run = replace(compress(), warnings=())
    untrained = replace(run, methods=tuple(replace(m, training=None) for m in run.methods))
    assert warned(untrained) == {"Few bits, no training": "warning"}
    wide = replace(untrained, weights=tuple(replace(w, entries=16) for w in run.weights))
    assert warned(wide) == {}


def test_what_to_do_about_few_bits_depends_on_what_was_given() -> None:
    run = replace(compress(), warnings=())
    trained = next(m.training for m in run.methods if m.training is not None)
    nothing = replace(trained, epochs=0.0)
    untrained = replace(run, methods=tuple(replace(m, training=None) for m in run.methods))
    given = replace(run, methods=tuple(replace(m, training=nothing) for m in run.methods))
    short = replace(given, warnings=("--max-time was enough for 0 of 200 passes over the data",))
    assert "give --data to train, or use --bits 4" in said(section(untrained, "warnings"))
    assert "give" not in said(section(given, "warnings"))
    assert "usually costs accuracy: use --bits 4" in said(section(given, "warnings"))
    assert warned(short) == {"Few bits, no time to train": "warning", "": "warning"}
    assert "give more --max-time, or use --bits 4" in said(section(short, "warnings"))
    assert "--data" not in said(section(short, "warnings"))


def test_no_changed_weight_is_marked() -> None:
    run = compress()
    dense = tuple(replace(w, encoding="dense", entries=None) for w in run.weights)
    same = tuple(replace(w, relative_error=0.0) for w in dense)
    assert "No weight changed" in warned(replace(run, weights=same))
    assert "No weight changed" not in warned(replace(run, weights=dense))  # trained, and stored whole


def test_refusals_are_grouped_by_reason_and_none_is_lost() -> None:
    run = compress()
    table = section(run, "refusals")[1]
    assert isinstance(table, Table)
    places = {n for row in table.rows for cell in row if isinstance(cell, Names) for n in cell.names}
    assert places == {r.where for r in run.refusals}
    assert len(table.rows) == 2


def test_weights_without_gradient_are_named_once() -> None:
    run = compress()
    doubled = replace(run, methods=run.methods * 2)
    table = section(doubled, "gradients")[1]
    assert isinstance(table, Table)
    assert table.rows[0][0] == Names(("head.scale",))
    assert "Mystery_7" in str(table.rows[0][2])


def test_histograms_show_the_largest_weights_and_rows_link_to_them() -> None:
    blocks = section(large(60), "weights")
    plot, table = blocks
    assert isinstance(plot, Histograms)
    assert isinstance(table, Table)
    assert len(plot.panels) == 24
    assert len(table.rows) == 60
    linked = {row[0].target for row in table.rows if isinstance(row[0], Name) and row[0].target}
    assert linked == {p.key for p in plot.panels}


def test_inspect_shows_weights_without_before_and_after() -> None:
    table = section(inspect(), "weights")[1]
    assert isinstance(table, Table)
    titles = [c.title for c in table.columns]
    assert "Role" in titles
    assert not {"Weight error", "Entries"} & set(titles)


def test_training_path_runs_along_mu_or_steps() -> None:
    plots = [b for b in section(compress(), "training") if isinstance(b, Lines)]
    assert [p.x_label for p in plots] == ["μ", "μ", "μ"]
    assert all(p.x_log for p in plots)
    run = compress()
    training = run.methods[0].training
    assert training is not None
    flat = replace(training, points=tuple(replace(p, mu=None) for p in training.points))
    stepped = replace(run, methods=(replace(run.methods[0], training=flat),))
    plots = [b for b in section(stepped, "training") if isinstance(b, Lines)]
    assert [p.x_label for p in plots] == ["step", "step", "step"]
    assert not [b for b in section(sparse(), "training") if isinstance(b, Lines)]


def test_a_path_without_penalty_and_gap_has_no_columns_for_them() -> None:
    run = compress()
    training = run.methods[0].training
    assert training is not None
    plain = replace(training, points=tuple(replace(p, mu=None, loss=None, gap=None) for p in training.points))
    gated = replace(run, methods=(replace(run.methods[0], training=plain),))
    before, after = (next(b for b in section(r, "training") if isinstance(b, Table)) for r in (run, gated))
    assert {c.title for c in before.columns} - {c.title for c in after.columns} == {"μ", "Loss", "Gap"}
    assert all(len(row) == len(after.columns) for row in after.rows)
    assert "Penalty parameter" not in render(gated, "markdown")


def test_a_loss_that_is_no_number_is_left_out_of_the_plot_as_it_is_of_json() -> None:
    run = compress()
    training = run.methods[0].training
    assert training is not None
    first, second, *others = training.points
    burst = replace(first, loss=math.inf), replace(second, loss=math.nan), *others
    diverged = replace(run, methods=(replace(run.methods[0], training=replace(training, points=burst)),))
    before, after = (
        [b for b in section(r, "training") if isinstance(b, Lines)]
        for r in (diverged, Run.from_json(diverged.to_json()))
    )
    assert before == after
    assert "<svg" in render(diverged, "html")


def test_several_comparisons_are_told_apart() -> None:
    captions = [b.caption for b in section(compare_three(), "outputs") if isinstance(b, Table)]
    assert captions == [
        "lenet300.lc-quant.onnx: outputs against the original file",
        "other.onnx: outputs against the original file",
    ]


def test_tables_are_rectangular() -> None:
    for run in (compress(), failing(), sparse(), inspect(), compare_three()):
        for part in document(run).parts:
            for block in part.blocks:
                if isinstance(block, Table):
                    assert {len(row) for row in block.rows} <= {len(block.columns)}, block.caption


def test_values_missing_say_so() -> None:
    table = next(b for b in section(bare("compress"), "sizes") if isinstance(b, Table))
    words = {cell.text for row in table.rows for cell in row if isinstance(cell, Quantity)}
    assert "not measured" in words
    assert not any("None" in word for word in words)


def test_a_reason_with_many_places_keeps_them_all() -> None:
    many = tuple(Refusal(f"b{i}", "too small") for i in range(500))
    table = section(replace(compress(), refusals=many), "refusals")[1]
    assert isinstance(table, Table)
    assert len(table.rows) == 1
    assert table.rows[0][1] == Quantity("500")
