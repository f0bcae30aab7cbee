"""The command line: what `run` needs and does not need, its exit status, and help that costs nothing."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.parts.mosquitto import free_port


def metergate_agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.entry", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def written(folder: pathlib.Path, more: str = "") -> pathlib.Path:
    path = folder / "agent.toml"
    path.write_text(f'gateway = "gw-1"\nbroker = "mqtt://127.0.0.1:{free_port()}"\ndata = "data"\n{more}')
    return path


def test_run_imports_no_command_line_library() -> None:
    program = "import sys; import agent.entry, agent.app; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_help_names_every_command_and_imports_none_of_them() -> None:
    done = metergate_agent("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in ("run", "read", "simulate", "invoke"))
    assert "--config FILE" in metergate_agent("run", "--help").stdout
    program = (
        "import sys\nfrom agent.entry import main\ntry: main(['--help'])\n"
        "except SystemExit: pass\nsys.exit('aiomqtt' in sys.modules or 'serial' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0


def test_run_polls_without_broker_and_ends_in_order_on_sigterm(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "agent.entry", "run", "--config", str(path)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        assert '"event": "agent_started"' in lines[0]
        time.sleep(0.3)
        second = metergate_agent("run", f"--config={path}")
        assert second.returncode == 1
        assert "in use by another process" in second.stderr
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
        assert process.returncode == 0
        assert '"event": "agent_stopped"' in rest
        assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["run", "--now"], "--now"),
        (["run", "--config"], "Usage"),
        (["walk"], "walk"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], named: str) -> None:
    done = metergate_agent(*arguments)
    assert done.returncode == 2
    assert named in done.stderr


def test_a_fault_in_the_settings_is_status_2_and_named(tmp_path: pathlib.Path) -> None:
    done = metergate_agent("run", "--config", str(written(tmp_path, 'colour = "red"\n')))
    assert done.returncode == 2
    assert "colour" in done.stderr
