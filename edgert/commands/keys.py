"""`edgert keygen`, `edgert sign` and `edgert verify`: keys and signatures of bundles."""

from pathlib import Path

import click

from edgert.bundle import check_bundle
from edgert.commands.printing import print_json
from edgert.errors import UsageError
from edgert.signature import generate_key, sign_bundle, verify_bundle


@click.command()
@click.argument("private", type=click.Path(path_type=Path))
@click.option("--public", type=click.Path(path_type=Path), help="Where the public key goes; default PRIVATE.pub.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def keygen(private: Path, public: Path | None, as_json: bool) -> None:
    """Make an Ed25519 key pair: PRIVATE (mode 0600, never overwritten) and its public half.

    \b
    Example:
      edgert keygen release.key
    """
    if not private.name or private.is_dir():
        raise UsageError(f"'{private}' is not a file name for a key", "name a file, as in: edgert keygen release.key")
    public = public or private.with_name(private.name + ".pub")
    keyid = generate_key(private, public)
    if as_json:
        print_json({"private": str(private), "public": str(public), "keyid": keyid})
        return
    click.echo(f"private key {private} (keep it secret), public key {public}\nkey id {keyid}")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="The private key.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def sign(bundle: Path, key: Path, as_json: bool) -> None:
    """Sign BUNDLE; its digest stays the same. Signing with a second key adds a signature.

    \b
    Example:
      edgert sign model-raspberry-pi-5.edgert --key release.key
    """
    keyid = sign_bundle(bundle, key)
    if as_json:
        print_json({"bundle": str(bundle), "keyid": keyid})
        return
    click.echo(f"signed {bundle} with key {keyid}")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path), help="A public key to trust; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(bundle: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Check every file of BUNDLE and, with --key, that one of those keys signed it; exit 1 says what is wrong.

    \b
    Example:
      edgert verify model-raspberry-pi-5.edgert --key release.key.pub
    """
    keyid = verify_bundle(bundle, list(keys)).keyid if keys else None
    _, digest = check_bundle(bundle)
    if as_json:
        print_json({"bundle": str(bundle), "digest": digest, "signed_by": keyid})
        return
    signed = f"signed by {keyid}" if keyid else "signature not checked: no --key given"
    click.echo(f"{bundle}: all files as the manifest says\ndigest {digest}\n{signed}")
