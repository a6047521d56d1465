"""Training under the bottleneck: gates and weights together, the decision, and the weights that go with it.

1. Gates in front of the sites of every chosen group; the task's loss and the information term are minimised
   together (eq. 10), γ fixed or steered towards a target.
2. The channels with the smallest α are given up; μ of the others goes into the weights.
3. Statistics of normalisations are estimated anew, and the network without the channels is trained on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from onnxcompress.core.bottleneck import Bottleneck, PathPoint
from onnxcompress.core.encoding import Array
from onnxcompress.core.run import Training
from onnxcompress.engine.bottleneck import keeping
from onnxcompress.engine.bottleneck.account import account, told
from onnxcompress.engine.bottleneck.decision import Decision
from onnxcompress.engine.bottleneck.folding import folded, why_not
from onnxcompress.engine.bottleneck.gates import Gates
from onnxcompress.engine.bottleneck.head_start import give_head_start
from onnxcompress.engine.bottleneck.information import EXAMPLES, LOOKS, passing
from onnxcompress.engine.bottleneck.job import Job, Pressed
from onnxcompress.engine.bottleneck.keeping import Keeper, OfModule, Phase, State
from onnxcompress.engine.bottleneck.lengths import in_time, wished
from onnxcompress.engine.bottleneck.log import Log
from onnxcompress.engine.bottleneck.normalisation import normalising
from onnxcompress.engine.bottleneck.pressure import Pressure, gate_rate
from onnxcompress.engine.bottleneck.recovery import Recovery, Start
from onnxcompress.engine.bottleneck.recurrence import Recurrence
from onnxcompress.engine.bottleneck.statistics import Statistics
from onnxcompress.engine.bottleneck.steering import Steering
from onnxcompress.engine.bottleneck.verdict import doubts, level, require_reachable, verdict
from onnxcompress.engine.bottleneck.ways import Way, ways
from onnxcompress.engine.channels import site_key, tapped
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.checkpoint import Checkpoint
from onnxcompress.engine.training.lengths import cheap_steps, passes_of_a_round
from onnxcompress.engine.training.scoring import made_in_time
from onnxcompress.engine.training.shifts import fitting_shifts, no_farther
from onnxcompress.engine.training.summary import summary
from onnxcompress.engine.training.trainer import Evaluation, Trainer

BATCH_SIZE = 64
"""Examples of one step: a few epochs of small batches make more steps than of large ones."""


def press(job: Job) -> Pressed:
    """Train; raises as the trainer does, and UnsupportedError where a target cannot be met."""
    require_reachable(job)
    return _Run(job).run()


class _Run:
    def __init__(self, job: Job) -> None:
        self.job, self.wishes, began = job, job.wishes, time.monotonic()
        job.resources.progress(0.0, "preparing the network and the data", None)
        channels = job.channels
        sites = [site for group in job.groups for site in group.sites]
        model, taps = tapped(channels, sites)
        self.graph = TorchGraph(model, device=job.resources.device)
        # The teacher is a graph of its own: this one's answers go through the gates.
        self.teacher = TorchGraph(job.resources.teacher or channels.model)
        batch_norm = any(node.op_type == "BatchNormalization" for node in channels.model.ir.graph)
        self.trainer = Trainer(
            self.graph,
            job.task,
            job.resources,
            batch_size=job.wishes.batch_size,
            usual=BATCH_SIZE,
            bn="train" if batch_norm else "eval",
            teacher=self.teacher,
            classes=True,
        )
        self.folded = [group for group in job.groups if why_not(group, channels.model) is None]
        fixed = {group.name for group in job.groups} - {group.name for group in self.folded}
        self.gates = Gates(job.groups, taps, site_key, job.task.seed, fixed=fixed).to(job.resources.device)
        self.recurrent = Recurrence(channels, job.groups, self.gates)
        wanted = self.wishes.normalise and not self.trainer.alone
        self.norms = normalising(model, job.trained, job.resources.device) if wanted else None
        self.statistics = Statistics(self.trainer, job.task, self.norms, self.trainer.moving)
        stuck = self.graph.without_gradient()
        self.stuck = tuple(r for r in stuck if r.where in set(job.trained))
        reached = set(self.graph.trainable) - {r.where for r in stuck}
        self.parameters = [n for n in job.trained if n in reached]
        self.augmentation = self._augmentation()
        self.original = self.graph.arrays()
        self.warnings: list[str] = []
        cheap = cheap_steps(channels.model, job.task, job.resources.input_shapes, self.trainer.batch_size)
        passes = wished(self.wishes, cheap, self.trainer.steps_per_epoch)
        self.log = Log(self.trainer, job.resources.progress, began, passes)
        self.decided: State | None = None
        self.recovery_lr = 0.0
        self.effects: dict[str, Array] = {}
        folder = job.resources.checkpoint_dir
        self.keeper = Keeper(
            None if folder is None else Checkpoint(folder / f"vib-{len(model.steps)}", job.fingerprint),
            resume=job.resources.resume,
        )

    def run(self) -> Pressed:
        before = self.keeper.values("run")
        if before is None:
            self.log.note("the original")
        with ExitStack() as stack:
            stack.enter_context(self.gates.on(self.graph))
            stack.enter_context(self.recurrent.on(self.graph.hooks))
            stack.enter_context(self.statistics.lending())
            self._settle_axes()
            phase = self._resumed(before)
            if before is None and self.parameters:
                self.log.gated, self.log.after = in_time(
                    self.log.wished,
                    self.trainer,
                    self.parameters,
                    self.augmentation,
                    lent=[self.gates] if self.norms is None else [self.gates, self.norms],
                    ways=2 if self.job.measures is None else 3,
                )
            if before is None:
                self.effects = give_head_start(
                    self.job,
                    self.gates,
                    passes=self.log.gated,
                    steps=self.log.gated_steps,
                    hurried=self.log.shortened,
                )
            if phase == "gated":
                stopped = self._gated()
                alphas = self.gates.alphas()
                decision = verdict(self.job, alphas)
                self._close(decision)
                self.statistics.estimate()
                self.log.note("after the decision")
                self.decided = keeping.decision_state(decision, alphas, stopped)
                phase = "decided"
                self._save(phase)
            assert self.decided is not None
            decision, alphas, stopped = keeping.read_decision(*self.decided)
            if self.log.after > 0 and stopped == "done" and self.parameters and phase != "done":
                decision, stopped = self._recover(phase, decision, alphas)
                self.decided = keeping.decision_state(decision, alphas, stopped)
                self._save("done")
        if stopped == "time" or self.log.shortened:
            self.warnings.append(made_in_time(self.log.made, sum(self.log.wished)))
        arrays = self._arrays()
        words = f"{stopped}; {told(self.job.groups, decision.keep)}"
        bottleneck = account(self.job.groups, alphas, decision, self.log.path, self.job.measures)
        keep = {name: mask for name, mask in decision.keep.items() if not mask.all()}
        warnings = [*self.trainer.warnings, *self.warnings, *doubts(self.job, decision)]
        return Pressed(keep, arrays, self._facts(words, bottleneck), tuple(dict.fromkeys(warnings)))

    # phases ------------------------------------------------------------------------------------------------

    def _gated(self) -> str:
        """Train gates and weights together; return why it stopped."""
        wishes, trainer = self.wishes, self.trainer
        steps = self.log.gated_steps
        lr = wishes.gate_lr or gate_rate(steps, wishes.lr)
        steering = None
        if self.job.measures is not None:
            steering = Steering(steps, lambda: level(self.job, self.gates.alphas()), wishes.gamma)
        pressure = Pressure(
            self.gates,
            self.job.weights,
            wishes.gamma,
            lr=lr,
            others=self.statistics.parameters(),
            others_lr=wishes.lr,
            warm_up=round(wishes.warm_up * steps),
            each_step=lambda step: self._looked(step, steps, pressure, steering),
        )
        self.keeper.give("pressure", pressure)
        if steering is not None:
            self.keeper.give("steering", steering)
        if not self.parameters:
            self.warnings.append("no gradient reaches a weight that may change; only gates were trained")
        save = partial(self._save, "gated", pressure=pressure, steering=steering)
        outcome = trainer.run(
            self.log.gated,
            lr=wishes.lr,
            optimizer="adam",
            weight_decay=wishes.weight_decay,
            penalty=pressure,
            parameters=self.parameters,
            augmentation=self.augmentation,
            progress=lambda f, text: self.log.progress(f * self.log.gated, text),
            save=save if self.keeper.active else None,
            save_every_s=keeping.SAVE_EVERY_S,
        )
        self.log.made = outcome.epochs
        return outcome.stopped

    def _looked(self, step: int, steps: int, pressure: Pressure, steering: Steering | None) -> None:
        """Steer, and note the path now and then."""
        if steering is not None and step % steering.every == 0:
            pressure.gamma = steering.look(step)
        per_epoch = self.trainer.steps_per_epoch
        estimated = self.wishes.information and step % max(1, steps // LOOKS) == 0
        if estimated or step % max(1, steps // 50) == 0 or step == steps:
            kept = {n: int(m.sum()) for n, m in self._open().items()}
            look = partial(self.trainer.evaluate, limit=EXAMPLES)
            passed = passing(self.gates, self.job.groups, look, self.job.task.seed) if estimated else {}
            self.log.path.append(PathPoint(step / per_epoch, pressure.gamma, kept, passed))
        if step % (per_epoch * passes_of_a_round(self.log.gated, per_epoch)) == 0 or step == steps:
            self.log.made = step / per_epoch
            left = sum(int(m.sum()) for m in self._open().values())
            self.log.note(
                f"gamma {pressure.gamma:.3g}, {left} of {sum(g.size for g in self.job.groups)} channels left"
            )

    def _recover(self, phase: Phase, decision: Decision, alphas: Mapping[str, Array]) -> tuple[Decision, str]:
        """Train on without the channels that were given up; return which these are, and why it stopped."""
        before, wishes = self.log.gated, self.wishes

        def note(epoch: float, words: str) -> Evaluation:
            self.log.made = before + epoch
            return self.log.note(words)

        recovery = Recovery(
            self.trainer,
            self.gates,
            self.statistics,
            self.parameters,
            wishes.lr,
            wishes.weight_decay,
            self.augmentation,
            note,
            lambda epoch, text: self.log.progress(before + epoch, text),
        )
        start = Start(Way("", decision), self.recovery_lr)
        if phase == "decided":
            compared = ways(self.job, decision, self.original, self.effects, self.log.gated_steps)
            start = recovery.start(compared, self.log.after, shortened=self.log.shortened)
            self.recovery_lr, decision = start.lr, start.way.decision
            self.decided = keeping.decision_state(decision, alphas, "done")
        stopped = recovery.run(
            self.log.after,
            start,
            self.trainer.higher_is_better if self.job.task.labelled else None,
            lambda part: self.keeper.give("recovery", part),
            (lambda state: self._save("recovering", recovery=state)) if self.keeper.active else None,
        )
        self.statistics.estimate()
        self.log.note("after training on")
        return decision, stopped

    def _close(self, decision: Decision) -> None:
        """Let the channels go, and the means of the others into the weights."""
        self.gates.keep(decision.keep)
        groups = self.folded
        means = {g.name: self.gates[g.name].mean.detach().double().cpu().numpy() for g in groups}
        names = {s.weight for g in groups for s in g.sites if s.weight is not None}
        self.graph.set_arrays(folded(groups, means, self.graph.arrays(sorted(names))))
        self.gates.settle()

    def _open(self) -> dict[str, Array]:
        """Return the channels over the threshold now, at least one a group."""
        least = self.wishes.threshold
        alphas = self.gates.alphas()
        return {name: own > min(least, float(own.max()) * (1 - 1e-9)) for name, own in alphas.items()}

    # checkpoints -------------------------------------------------------------------------------------------

    def _save(
        self,
        phase: Phase,
        pressure: Pressure | None = None,
        steering: Steering | None = None,
        recovery: State | None = None,
    ) -> None:
        """Write the state down, where it is to be kept."""
        if not self.keeper.active:
            return
        parts = {"trainer": self.trainer.state(), "gates": OfModule(self.gates).state()}
        if self.norms is not None:
            parts["norms"] = OfModule(self.norms).state()
        for name, part in (("pressure", pressure), ("steering", steering)):
            if part is not None:
                parts[name] = part.state()
        if recovery is not None:
            parts["recovery"] = recovery
        if self.decided is not None:
            parts["decision"] = self.decided
        parts["run"] = self.effects, {"phase": phase, "lr": self.recovery_lr, **self.log.values()}
        self.keeper.save(parts)

    def _resumed(self, before: Mapping[str, Any] | None) -> Phase:
        """Take up what an interrupted run left; return what comes next."""
        if before is None:
            return "gated"
        for name, part in (("trainer", self.trainer), ("gates", OfModule(self.gates))):
            self.keeper.give(name, part)
        if self.norms is not None:
            self.keeper.give("norms", OfModule(self.norms))
        if self.keeper.values("decision") is not None:
            self.decided = self.keeper.arrays("decision"), dict(self.keeper.values("decision") or {})
        self.log.restore(before)
        self.effects = self.keeper.arrays("run")
        self.recovery_lr = float(before["lr"])
        phase: Phase = before["phase"]
        return phase

    def _settle_axes(self) -> None:
        """Let the gates see calls of different sizes, so that they know which axis counts examples."""
        for count in (7, 5):
            self.trainer.evaluate(self.job.task.train[:count])

    # small parts -------------------------------------------------------------------------------------------

    def _augmentation(self) -> Augmentation | None:
        task, wishes = self.job.task, self.wishes
        shifts = fitting_shifts(self.teacher, task) if wishes.shift else {}
        shifts = no_farther(shifts, wishes.farthest)
        return Augmentation(shifts) if shifts else None

    def _arrays(self) -> dict[str, Array]:
        """Return the weights that changed, normalisation folded in, in their storage types."""
        arrays = self.graph.arrays()
        if self.norms is not None:
            arrays |= self.norms.folded(arrays)
        original = self.job.channels.model
        return {
            name: array
            for name, array in arrays.items()
            if name in original.weights and not np.array_equal(array, original.array(name))
        }

    def _facts(self, stopped: str, bottleneck: Bottleneck) -> Training:
        return summary(
            self.trainer,
            self.job.task,
            self.augmentation,
            epochs=self.log.made,
            stopped=stopped,
            points=self.log.points,
            without_gradient=self.stuck,
            bottleneck=bottleneck,
        )
