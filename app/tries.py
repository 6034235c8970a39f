"""Decide which targets of a plan a request tries next, and how long it may wait for a place there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.errors import BackendError, NoPlace, PromptTooLong
from app.routing.expected import expected_time, waiting
from app.routing.model_facts import model_facts
from app.services import Services
from app.types import BackendConfig, ExpectedTime, Plan, Step, Target

Failures = list[tuple[str, BackendError]]  # backend, and why its call failed


class Tries:
    """Yield the targets in order, then those whose server wants no calls now, then the unhealthy ones.  At last come
    together all targets whose places were taken for longer than the request may wait while others are left: then it
    waits for the first free place.

    The members of a pool come together.  The caller removes the targets that have failed from a list that it got; the
    list comes again until it is empty.  When a server counted the tokens of the prompt, targets with a smaller window
    are left out.
    """

    def __init__(self, plan: Plan, services: Services) -> None:
        self.failures: Failures = []
        self.steps: list[Step] = []  # of the trace, after those of the decision
        self.begin_ns: int | None = None  # when the request began to wait for a place, in monotonic ns
        self._plan = plan
        self._services = services
        self._full: list[Target] = []  # places were taken for longer than the request may wait while others are left
        self._is_last = self._is_final = False

    def __iter__(self) -> Iterator[list[Target]]:
        busy: list[Target] = []
        unhealthy: list[Target] = []
        in_order = groups(self._plan.decision.targets)
        for number, targets in enumerate(in_order, 1):
            while targets:
                passed_over, ill = self._services.circuits.busy(), self._services.circuits.unhealthy()
                left = [target for target in targets if not self._is_too_small(target)]
                busy += [target for target in left if target.backend in passed_over]
                unhealthy += [target for target in left if target.backend in ill - passed_over]
                targets = [target for target in left if target.backend not in ill | passed_over]
                self._next(is_last=number == len(in_order) and not busy and not unhealthy)
                if targets:
                    yield targets
        for number, target in enumerate(late := (*busy, *unhealthy), 1):
            self._next(is_last=number == len(late))
            if not self._is_too_small(target):
                yield [target]
        targets = self._last_chance()
        while targets:
            yield targets

    def _next(self, *, is_last: bool) -> None:
        """Begin another try.  When it is the last one, the request waits there only if it need not wait elsewhere too:
        then it waits for all of these places together."""
        self._is_last = is_last
        self._is_final = is_last and not self._full

    def _last_chance(self) -> list[Target]:
        """Return the targets whose places were taken.  These were no failures, because the request waits again."""
        targets, self._full = self._full, []
        names = {target.backend for target in targets}
        self.failures[:] = [one for one in self.failures if one[0] not in names or not isinstance(one[1], NoPlace)]
        self._is_final = True
        return targets

    def failed(self, tried: Sequence[Target], target: Target, error: BackendError) -> None:
        """Note that the call to `target` failed.  `tried` are the targets that the call could have gone to."""
        self.failures.append((target.backend, error))
        if not isinstance(error, NoPlace):
            self.steps.append(Step("call", f"{target.backend} failed: {error.kind}"))
            return
        error.retry_after_s = max(1.0, (self._expected(target).wait_ms or 0) / 1000)
        for one in tried:
            config = self._config(one)
            longest_ms, wait = self._longest_ms(config), waiting(self._expected(one))
            within = f"{longest_ms:.0f} ms{wait and ': '}{wait}"
            self.steps.append(Step("call", f"{one.backend} has no free place within {within}"))
            if not self._is_final and (self._is_last or longest_ms < config.timeouts.first_byte_s * 1000):
                self._full.append(one)

    def longest_wait_s(self, targets: Sequence[Target]) -> float:
        """Return how long the request may wait for a place of these targets, which are all taken.  It is 0 when the
        wait is expected to be too long, and others are left."""
        return max(self._patience_ms(target) for target in targets) / 1000

    def _patience_ms(self, target: Target) -> float:
        expected, longest_ms = self._expected(target), self._longest_ms(self._config(target))
        wait_ms = expected.ahead if expected.wait_ms is None else expected.wait_ms  # unknown: little more than 0
        if self._is_final:
            return longest_ms
        return 0 if self._is_last or wait_ms > longest_ms else longest_ms

    def _longest_ms(self, config: BackendConfig) -> float:
        first_byte_ms = config.timeouts.first_byte_s * 1000
        return first_byte_ms if self._is_final else min(config.longest_wait_ms, first_byte_ms)

    def _expected(self, target: Target) -> ExpectedTime:
        observations, lane = self._services.beliefs.observations(), self._plan.request.lane
        return expected_time(target, self._config(target), observations, lane)

    def _config(self, target: Target) -> BackendConfig:
        return self._services.upstreams[target.backend].backend.config

    def _is_too_small(self, target: Target) -> bool:
        """Return True when the prompt has more tokens, by the count of another server, than the window of a target
        holds.  A window that the server has told counts only while it is in force."""
        tokens = max((error.tokens or 0 for _, error in self.failures if isinstance(error, PromptTooLong)), default=0)
        if not tokens:
            return False
        declared = self._config(target).context_window(target.model)
        facts = model_facts(target, self._services.beliefs.observations())
        learned = facts.window if facts.loaded is not False else None
        window = min((size for size in (declared, learned) if size is not None), default=tokens)
        if window < tokens:
            self.steps.append(Step("call", f"{target.backend} skipped: {tokens} tokens, its window holds {window}"))
        return window < tokens


def groups(targets: Sequence[Target]) -> list[list[Target]]:
    """Return each target alone, and the members of a pool that stand side by side together."""
    ordered: list[list[Target]] = []
    for target in targets:
        if ordered and target.pool is not None and target.pool == ordered[-1][0].pool:
            ordered[-1].append(target)
        else:
            ordered.append([target])
    return ordered
