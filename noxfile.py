"""What one does with this project, each as one command: ``nox -s <session>``; ``nox -l`` lists them.

Nothing but Python and pip is needed: each session makes a virtual environment of its own and installs what
pyproject.toml says. With uv on the path, that is what makes them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # the first with nox.project.dependency_groups
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"  # a second run starts at once; -r false makes it anew
nox.options.envdir = os.environ.get("NOX_ENVDIR", ".nox")  # CI wants nothing of an earlier run
nox.options.sessions = ["tests", "lint", "types", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
ALL = "[demo,otel,testing,asyncio,admin]"  # the extras
CHECKED = ("tickrunner_trio", "examples", "tests", "benchmarks", "docs", "noxfile.py")
PARALLEL = ("--numprocesses=2",)  # each worker has a server of its own; `-- -n0` for one process and --pdb

# Of flake8-async, what ruff lacks, those about cancellation first of all. Not 910 and 911: they ask of each private
# function a checkpoint on each path, where it is enough that the public one which calls it has one.
ASYNC_RULES = "ASYNC101,ASYNC102,ASYNC103,ASYNC104,ASYNC111,ASYNC112,ASYNC113,ASYNC118,ASYNC119,ASYNC120,ASYNC121"
ASYNC_RULES += ",ASYNC122,ASYNC123,ASYNC124,ASYNC128,ASYNC300,ASYNC912,ASYNC913"


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install this checkout, editable, and groups of pyproject.toml."""
    needs = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install("--quiet", "--editable", f".{extras}", *needs)


@nox.session
def demo(session: nox.Session) -> None:
    """Watch three replicas share work over a real PostgreSQL, and one of them die. Takes the command's options."""
    install(session, extras="[demo,otel,admin]")
    session.run("tickrunner", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that runs nox. Takes pytest's options."""
    install(session, "test", extras=ALL)
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run the tests on each supported Python; `tests_all-3.12` for one. Takes pytest's options."""
    tests(session)


@nox.session
def tests_lowest(session: nox.Session) -> None:
    """Run the tests with the oldest releases that the library's own bounds allow. Takes pytest's options."""
    install(session, "test", extras=ALL)
    extras = PYPROJECT["project"]["optional-dependencies"]
    bounds = [*PYPROJECT["project"]["dependencies"]]
    bounds += [bound for extra in ("otel", "admin", "testing", "asyncio") for bound in extras[extra]]
    oldest = [bound.replace(">=", "==") for bound in bounds]
    # The C half of psycopg must be of the same release as the rest; the SDK pins the release of its API by itself.
    session.install("--quiet", *oldest, "psycopg[binary]")
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Try the admin application's page in Chromium; screenshots go to build/screenshots. Takes pytest's options."""
    install(session, "browser", extras="[demo,admin]")
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def dashboards(session: nox.Session) -> None:
    """Try alerts and dashboard on a real Prometheus, with a fleet of real replicas. Takes pytest's options."""
    install(session, "test", extras=ALL)
    session.run("pytest", *PARALLEL, "tests/dashboards", *session.posargs)


@nox.session
def kit(session: nox.Session) -> None:
    """Show that what users test with finds hundreds of planted bugs; kill the example. Takes pytest's options."""
    install(session, "test", extras=ALL)
    session.run("pytest", *PARALLEL, "tests/kit", *session.posargs)


@nox.session
def simulation(session: nox.Session) -> None:
    """Hold simulated clusters to the rules of the design under 2,000 random plans of faults. Takes pytest's options."""
    install(session, "test", extras=ALL)
    session.run(
        *("pytest", *PARALLEL, "tests/test_cluster_rules.py", "tests/kit/test_simulated_ledger.py", *session.posargs),
        env={"TICKRUNNER_TEST_PLANS": "2000"},
    )


@nox.session
def ledger(session: nox.Session) -> None:
    """Try the ledger with real processes and servers: deployed, killed, frozen, failed over. Takes pytest's options."""
    install(session, "test", extras=ALL)
    session.run("pytest", *PARALLEL, "tests/ledger", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Try to make two replicas run at once, by each fault that we know: `nox -s faults -- --minutes 10 --seed 1`.

    With lockers without a ledger, then with one: `--ledger` for these alone.
    """
    install(session, "test", extras="[demo]")
    options = session.posargs
    for each in [options] if "--ledger" in options else [options, [*options, "--ledger"]]:
        session.run("python", "-m", "faults.campaign", *each, env={"PYTHONPATH": "tests"})


@nox.session
def campaigns(session: nox.Session) -> None:
    """Do what kit, dashboards, simulation, ledger and faults do, in one environment: to make each takes 20 seconds."""
    for each in (kit, dashboards, simulation, ledger, faults):
        session.log(f"as nox -s {each.__name__}")
        each(session)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests, of kit, ledger, dashboards and docs too: each line and each branch is reached, or says why not.

    Takes the options of `coverage report`. Wants root, PgBouncer, Prometheus and a PostgreSQL of the system, as CI has.
    """
    install(session, "coverage", "bench-apscheduler3", extras=ALL)
    session.run("coverage", "erase")
    # Of "tests tests/kit", pytest takes the first alone, and that without the folders that it is told to leave out.
    everywhere = ("--override-ini=norecursedirs=.* browser", "tests")
    session.run("coverage", "run", "-m", "pytest", "-q", *PARALLEL, *everywhere, env={"CI": "true"})
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the pure modules place by place: each time a test fails, or tests/survivors.toml says why none does."""
    install(session, "mutants", extras=ALL)
    shutil.rmtree("mutants", ignore_errors=True)  # mutmut lets the verdicts of an earlier run stand, whatever the tests
    session.run("mutmut", "run", *session.posargs)
    session.run("python", "tests/survivors.py")


@nox.session
def ruff(session: nox.Session) -> None:
    """Check format and ruff's rules, in a second: what each commit has to pass. `nox -s ruff -- --fix` mends."""
    session.install("--quiet", *nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", *session.posargs, *CHECKED)
    session.run("ruff", "format", *([] if session.posargs else ["--check"]), *CHECKED)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, ruff's rules and flake8-async's. `nox -s lint -- --fix` mends what can be mended."""
    ruff(session)
    sources = sorted(str(path) for folder in ("tickrunner_trio", "examples") for path in Path(folder).rglob("*.py"))
    session.run("flake8-async", f"--enable={ASYNC_RULES}", *sources)


#: A field that a `Tick` does not have: if mypy let it through, it would complain that nothing is to be ignored.
MISSPELT = """
from tickrunner_trio import Tick

def look(tick: Tick) -> object:
    return tick.requst_id  # type: ignore[attr-defined]
"""


@nox.session
def types(session: nox.Session) -> None:
    """Hold package, example and benchmarks to mypy strict, the package to pyright strict and complete public types."""
    install(session, "types", "bench", extras=ALL)
    session.run("mypy")
    session.run("mypy", "-p", "benchmarks")
    session.run("mypy", "--config-file=", "--strict", "-c", MISSPELT)
    session.run("pyright", "--pythonpath", str(Path(session.virtualenv.bin, "python")))
    session.run("pyright", "--verifytypes", "tickrunner_trio", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build, warnings are errors, and do what it shows. Takes pytest's options."""
    install(session, "docs", "test", "bench-apscheduler3", extras=ALL)
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-n", "-b", "html", "docs", "docs/_build")
    session.log("open docs/_build/index.html")
    session.run("pytest", *PARALLEL, "tests/docs", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare with peers and with the machine: `-- --quick`, `-- --only ticks`, `-- --write`; else fail beyond targets.

    What `benchmarks/README.md` tells about. Peers that cannot stand beside another have folders of their own.
    """
    install(session, extras="[demo,otel,admin]")
    for need in nox.project.dependency_groups(PYPROJECT, "bench"):
        with contextlib.suppress(nox.command.CommandFailed):  # a peer that is not there has a row that says so
            session.install("--quiet", need)
    for peer in ("apscheduler3", "apscheduler4"):
        folder = Path(session.virtualenv.location, "peers", peer)
        if not folder.exists():
            needs = nox.project.dependency_groups(PYPROJECT, f"bench-{peer}")
            with contextlib.suppress(nox.command.CommandFailed):
                session.install("--quiet", "--target", str(folder), *needs)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel into dist, install each into a clean environment, try what is there, and run the demo."""
    session.install("--quiet", "build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist", silent=True)  # the wheel is built from the sdist
    tried = Path("tests", "installed.py").resolve()
    (sdist,), (wheel,) = (list(Path("dist").resolve().glob(form)) for form in ("*.tar.gz", "*.whl"))
    session.chdir(session.create_tmp())
    for name, needs in (("sdist", f"{sdist}[testing]"), ("wheel", f"{wheel}[demo,testing]")):
        session.run("python", "-m", "venv", "--clear", name)
        session.run(f"{name}/bin/python", "-m", "pip", "install", "--quiet", needs, "pytest", external=True)
        session.run(f"{name}/bin/python", "-I", str(tried), external=True)
    session.run("wheel/bin/tickrunner", "demo", "--seconds", "6", "--no-kill", external=True, silent=True)
