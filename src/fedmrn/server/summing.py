"""All updates of a round folded as one sum of masks, in place of one by one."""

from dataclasses import replace

from fedmrn.server.aggregate import Aggregator
from fedmrn.server.fold import ExactSum
from fedmrn.server.summed import MaskSum, fold_sum, full_mask
from fedmrn.wire.layout import Group


def take_sum(aggregator: Aggregator, total: MaskSum, noise_key: int) -> None:
    """Make an aggregator's sum that of a round's updates; equal to the bit to folding them one by one.

    Side data is not clipped by the round's median: single values are not there.

    Args:
        aggregator: of the round, without updates.
        total: the sum.
        noise_key: the key that all clients were sent.

    Raises:
        WrongParametersError: the sum is not of this model, or its masks are none.
        DuplicateFrameError: something was folded already.
    """
    total.check(aggregator.plan.layout)
    with aggregator.lock:
        aggregator.admission.check_empty()
        census, plan, codecs = aggregator.census, aggregator.plan, aggregator.admission.codecs
        census.weights += [1] * len(total.clients)
        if plan.caps is not None:
            wanted = total.wanted_scales(plan.caps.told_scales)
            census.scales += [] if wanted is None else [wanted]
            if plan.caps.first:
                plan = replace(plan, caps=plan.caps.closed(census))
        aggregator.sums = ExactSum(plan, codecs, aggregator.sums.threads)
        fold_sum(aggregator.sums, codecs, total, noise_key)
        if Group.CODED in codecs:
            aggregator.tally.add_sum(total, full_mask(plan, codecs[Group.CODED], noise_key))
        aggregator.admission.summed = True
        for client in total.clients:
            aggregator.admission.note(client, 1)
