"""Everything that a person runs, and that .ci/run runs.

The tests are run against the built wheel, from a folder outside the package's source: what is
tested is what users install. A Python that the machine does not have is skipped, or is an error
where CI is set; the versions themselves are the classifiers' in pyproject.toml.
"""

from __future__ import annotations

from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
FIND_TRIO = "import importlib.util; print(importlib.util.find_spec('trio'))"
PYTHONS = nox.project.python_versions(PYPROJECT)


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


def temporary_folder(session: nox.Session) -> Path:
    return Path(session.create_tmp()).resolve()


def install_wheel(session: nox.Session, extras: str, *others: str) -> None:
    """Build the wheel and install it, with what else the session needs, in one resolution."""
    folder = temporary_folder(session) / "wheel"
    for stale in folder.glob("*.whl"):
        stale.unlink()
    session.run(
        *("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."),
        silent=True,
    )
    (wheel,) = folder.glob("*.whl")
    session.install(f"anysmtp[{extras}] @ {wheel.as_uri()}", *others)


def run_tests(session: nox.Session, *runner: str, backends: str = "asyncio,trio") -> None:
    """Run pytest where neither it nor a subprocess of a test finds the checkout.

    README's command tries every point of the matrices; here, once for each environment, fewer do.
    """
    pytest = Path(session.bin) / "pytest"
    config = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider")
    with session.chdir(temporary_folder(session)):
        session.run(
            *(*runner, str(pytest), *config, *chosen_tests(session.posargs)),
            env={"ANYSMTP_BACKENDS": backends, "ANYSMTP_INSTALLED": "1", "ANYSMTP_QUICK": "1"},
        )


def chosen_tests(arguments: list[str]) -> list[str]:
    """The arguments with their paths, given from the root, made absolute; no path: all tests."""
    options = [argument for argument in arguments if not is_path(argument)]
    paths = [argument for argument in arguments if is_path(argument)] or ["tests"]
    return [*options, *(str(ROOT / path) for path in paths)]


def is_path(argument: str) -> bool:
    return (ROOT / argument.partition("::")[0]).exists()


def lowest_direct_dependencies() -> list[str]:
    """Each requirement of the package and its extras, at the version that is its floor."""
    project = PYPROJECT["project"]
    requirements = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        requirements += extra
    return [str(floor(Requirement(requirement))) for requirement in requirements]


def floor(requirement: Requirement) -> Requirement:
    (specifier,) = requirement.specifier
    if specifier.operator != ">=":
        raise ValueError(f"{requirement} has no floor")
    return Requirement(f"{requirement.name}=={specifier.version}")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, on both backends."""
    install_wheel(session, "trio,demo,cli", *group("test"), *group("compare"))
    run_tests(session)


@nox.session
def asyncio_only(session: nox.Session) -> None:
    """The tests where trio, and aiosmtplib, are not installed."""
    install_wheel(session, "demo,cli", *group("test"))
    found = session.run("python", "-c", FIND_TRIO, silent=True)
    if found != "None\n":
        session.error("trio is installed: something depends on it")
    run_tests(session, backends="asyncio")


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with each direct dependency at its floor."""
    install_wheel(session, "trio,demo,cli", *lowest_direct_dependencies(), *group("test"))
    run_tests(session)


# CPython 3.11 stops tracing a frame whose coroutine an exception was thrown into.
@nox.session(python=PYTHONS[-1])
def coverage(session: nox.Session) -> None:
    """Branch coverage of the package by the tests, on both backends together: all of it."""
    install_wheel(session, "trio,demo,cli", *group("test"), *group("compare"), *group("coverage"))
    data = temporary_folder(session) / "coverage"
    for stale in data.parent.glob("coverage*"):
        stale.unlink()
    session.env["COVERAGE_FILE"] = str(data)
    run_tests(session, "coverage", "run", "--rcfile", str(ROOT / "pyproject.toml"))
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure anysmtp beside its peers (-- --help), or see where its time goes (-- profile)."""
    install_wheel(session, "trio,demo", *group("bench"))
    command, *arguments = session.posargs or [""]
    module = "benchmarks.profile" if command == "profile" else "benchmarks"
    given = arguments if command == "profile" else session.posargs
    environment = {"PYTHONPATH": str(ROOT / "tests"), "BENCHMARK_FOLDER": session.invoked_from}
    with session.chdir(temporary_folder(session)):
        session.run("python", "-m", module, *given, env=environment)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff's rules and format."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """mypy and pyright, for the oldest and the newest Python; and that the API is fully typed."""
    install_wheel(session, "trio,demo,cli", *group("test"), *group("bench"), *group("types"))
    for python in (PYTHONS[0], PYTHONS[-1]):
        session.run("mypy", "--python-version", python)
        session.run("pyright", "--pythonversion", python)
    with session.chdir(temporary_folder(session)):
        session.run("pyright", "--verifytypes", "anysmtp", "--ignoreexternal")


@nox.session
def layers(session: nox.Session) -> None:
    """Who may import whom."""
    session.install(*group("layers"))
    session.run("lint-imports", "--no-logo")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, with every broken reference an error; see docs/_build/html."""
    install_wheel(session, "trio,demo,cli", *group("docs"))
    session.run(
        *("sphinx-build", "-b", "html", "--nitpicky", "--fail-on-warning", "--keep-going"),
        *("--fresh-env", "-d", str(temporary_folder(session) / "doctrees")),
        *("docs", "docs/_build/html"),
    )
