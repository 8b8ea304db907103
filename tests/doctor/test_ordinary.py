"""What holds for root holds for an ordinary user too: scripts/test runs this as two of them."""

from __future__ import annotations

import pytest

from .test_broken import (  # noqa: F401
    test_a_masked_proc_is_named_and_the_container_around_told_how,
    test_a_run_directory_that_others_may_enter_is_refused_and_chmod_named,
    test_a_shell_whose_loader_is_not_there_is_named,
    test_few_files_are_a_limit,
    test_newuidmap_without_rights_is_not_taken_for_one,
    test_too_few_files_stop_the_run_and_say_at_which_step,
    test_without_newuidmap_in_path_the_package_is_named,
    test_without_user_namespaces_nothing_works_and_the_sysctl_is_named,
)
from .test_here import (  # noqa: F401
    test_every_check_has_an_answer,
    test_it_leaves_nothing,
    test_it_takes_less_than_a_second,
    test_run_works_where_these_tests_run,
    test_the_json_is_stable,
    test_the_text_has_a_line_for_each_check_and_a_summary,
    test_whatever_is_not_ok_says_what_follows_and_what_mends_it,
)

pytestmark = pytest.mark.rootless


def test_an_ordinary_user_is_told_of_the_range(doctor):
    found = doctor()
    assert found.status("ids.pool") == "not needed"
    status = found.status("ids.subuid")
    if status == "missing":
        mend = str(found["ids.subuid"]["mend"])
        assert "usermod --add-subuids" in mend or "tee -a /etc/subuid" in mend
        assert found.status("ids.newuidmap") == "not needed"
    else:
        assert found.status("ids.newuidmap") == "ok", found["ids.newuidmap"]
