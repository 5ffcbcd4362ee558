"""The command line: the group, one way to print errors, and the exit codes. Each subcommand is a file in `commands/`.

Exit codes: 0 done, 1 a check or gate failed, 2 wrong usage or bad input, 3 a missing extra or device, 4 the
environment failed, 130 interrupted.
"""

import errno
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from edgert import __version__
from edgert.errors import EdgertError, EnvironmentFailed, UsageError, nearest

COMMANDS = {
    "profiles": ("edgert.commands.profiles", "List, show or detect device profiles."),
    "convert": ("edgert.commands.convert", "Turn a model into verified bundles for the devices you name."),
    "inspect": ("edgert.commands.inspect", "Show what is in a bundle, after checking every byte of it."),
    "diff": ("edgert.commands.diff", "Show what differs between two bundles."),
    "run": ("edgert.commands.run", "Run a bundle on inputs from files."),
    "bench": ("edgert.commands.bench", "Time a bundle on this machine, raw onnxruntime beside it."),
    "keygen": ("edgert.commands.keys", "Make an Ed25519 key pair for signing bundles."),
    "sign": ("edgert.commands.keys", "Sign a bundle."),
    "verify": ("edgert.commands.keys", "Check a bundle's files and signature."),
    "sources": ("edgert.commands.sources", "List, install or remove the frameworks that models come from."),
    "agent": ("edgert.commands.agent", "Run a bundle as a device does, and report to a fleet server."),
    "record": ("edgert.commands.record", "Show a payload of the wire format as JSON, or make one from JSON."),
    "doctor": ("edgert.commands.doctor", "Show versions, providers, devices, and how to get what is missing."),
}
INTERRUPTED = 130
STOP_SIGNALS = ("SIGTERM", "SIGHUP")
TRACEBACK = "EDGERT_TRACEBACK"


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when that subcommand is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table above."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of `cmd_name` and return its command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command where there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = nearest(args[0], COMMANDS)
            hint = f"did you mean '{close}'?" if close else f"the commands are: {', '.join(COMMANDS)}"
            raise UsageError(f"no command '{args[0]}'", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, so that help imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgert")
def group() -> None:
    """Turn models into verified bundles for named devices, and run them there.

    \b
    Example:
      edgert convert model.onnx -p snapdragon-8-gen-3 -p raspberry-pi-5 --calibration images/ -o bundles/
      edgert run bundles/model-raspberry-pi-5.edgert --input photo.jpg
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    _show_warnings()
    sys.exit(_run(arguments))


def _show_warnings() -> None:
    """Print what edgert logs, a fallback for one, on stderr; other libraries keep to themselves."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.getLogger("edgert").handlers[:] = [handler]


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = group.main(args=arguments, prog_name="edgert", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except EdgertError as exc:
        return _report(exc)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return UsageError.exit_code
    except click.ClickException as exc:
        return _report(usage_error(exc))
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C changes nothing any more
        click.echo("interrupted; nothing half-written was left", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except MemoryError:
        return _report(
            EnvironmentFailed("out of memory", "use fewer or smaller samples, or a machine with more memory")
        )
    except OSError as exc:
        return _report(environment_error(exc))
    except Exception as exc:  # noqa: BLE001 - the last resort: a user gets one line, not our stack
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        message = f"internal error: {type(exc).__name__}: {exc}"
        return _report(EdgertError(message, f"this is a defect of edgert: report it with what {TRACEBACK}=1 prints"))


def usage_error(exc: click.ClickException) -> UsageError:
    """Return what click found wrong with the call as an error with a remedy."""
    context = getattr(exc, "ctx", None)
    command = context.command_path if context else "edgert"
    return UsageError(exc.format_message(), f"`{command} --help` shows how it is called")


def environment_error(exc: OSError) -> EnvironmentFailed:
    """Return the operating system's refusal as an error with a remedy."""
    name = f" '{exc.filename}'" if exc.filename else ""
    remedies = {
        errno.ENOSPC: "free some space on that disk, or write elsewhere with -o",
        errno.EDQUOT: "free some of your quota, or write elsewhere with -o",
        errno.EACCES: "check the permissions of the file and its folder",
        errno.EPERM: "check the permissions of the file and its folder",
        errno.EROFS: "the file system is read-only: write elsewhere with -o",
    }
    remedy = remedies.get(exc.errno or 0, "check that the path is right and the disk works")
    return EnvironmentFailed(f"{exc.strerror or exc}{name}", remedy)


def _report(exc: EdgertError) -> int:
    click.echo(f"error: {exc.message}", err=True)
    if exc.remedy:
        click.echo(f"remedy: {exc.remedy}", err=True)
    return exc.exit_code


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Turn the first SIGTERM or SIGHUP into the interrupt that every command cleans up after; ignore the next ones."""
    for name in ("SIGINT", *STOP_SIGNALS):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise KeyboardInterrupt
