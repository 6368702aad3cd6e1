"""Which states of an application are the end of waiting for it."""

import pytest

from serving.deployment.deploying import has_failed


@pytest.mark.parametrize(
    ("app", "deployments", "failed"),
    [
        ("DEPLOYING", [("UPDATING", "CONFIG_UPDATE_STARTED")], False),
        ("RUNNING", [("HEALTHY", "CONFIG_UPDATE_COMPLETED")], False),
        ("DEPLOY_FAILED", [("DEPLOY_FAILED", "REPLICA_STARTUP_FAILED")], True),
        ("DEPLOY_FAILED", [], True),  # its code could not be loaded
        ("UNHEALTHY", [("UNHEALTHY", "HEALTH_CHECK_FAILED"), ("HEALTHY", "UNSPECIFIED")], False),
        ("UNHEALTHY", [("UNHEALTHY", "HEALTH_CHECK_FAILED"), ("UNHEALTHY", "REPLICA_STARTUP_FAILED")], True),
        ("UNHEALTHY", [("UNHEALTHY", "INTERNAL_ERROR")], True),
        ("UNHEALTHY", [], True),
    ],
)
def test_a_replica_that_is_replaced_is_waited_for(
    serve_ready: None, app: str, deployments: list[tuple[str, str]], failed: bool
) -> None:
    from ray.serve import schema

    said = {
        str(number): schema.DeploymentStatusOverview(
            schema.DeploymentStatus(status), schema.DeploymentStatusTrigger(trigger), {}, ""
        )
        for number, (status, trigger) in enumerate(deployments)
    }
    assert has_failed(schema.ApplicationStatusOverview(schema.ApplicationStatus(app), "", 0.0, said)) is failed
