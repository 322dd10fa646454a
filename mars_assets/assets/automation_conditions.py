"""When an asset is made again by itself, because what it is made of has changed."""

import dagster as dg

RETRY = "0 * * * *"
"""After a failed run the same change is tried again at the full hour."""


def follows(*but: str) -> dg.AutomationCondition:
    """Follows new data versions of what is above, once each; a change is not lost where its run fails.

    Everything that a change reaches is requested at once, as one run where the checks of what is above have passed before. What
    changes while a run is going on is followed after it. After a failed run the same change is tried again at the next full hour,
    a further one at once; a run that somebody cancels is not repeated. What waits for something that is missing, in progress or
    blocked by a check is made when it no longer has to.

    Args:
        but: assets above that are not followed and need not be there.
    """
    condition = dg.AutomationCondition
    changed = condition.data_version_changed() | condition.will_be_requested()
    # What a run changes that makes this asset as well is not news to it.
    elsewhere = condition.any_deps_match(
        (condition.data_version_changed() & ~condition.executed_with_root_target()) | condition.will_be_requested()
    )
    # A request is known at the tick after it; what has changed again by then is not what was requested.
    requested = condition.newly_requested() & ~elsewhere
    # Dagster keeps each "since" under the kinds of its two parts, so no two of these may have parts of the same two kinds.
    news = elsewhere.since(requested | condition.initial_evaluation())
    outstanding = (condition.any_deps_match(changed) | condition.newly_requested()).since(condition.newly_updated())
    an_hour_passed = condition.cron_tick_passed(RETRY).since(
        condition.newly_requested() | condition.in_progress() | condition.initial_evaluation()
    )
    again = outstanding & condition.execution_failed() & an_hour_passed
    ready = (
        ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
        & condition.all_deps_blocking_checks_passed()
    )
    wanted = (news.with_label("changed above") | again.with_label("failed, an hour has passed")) & ready
    if but:
        wanted = wanted.ignore(dg.AssetSelection.assets(*but))
    return wanted.with_label("follows what is above")
