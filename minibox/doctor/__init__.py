"""What this host can do for containers and what not, why, and the command that mends it: `minibox doctor`.

Facts: a version number tells little.  Distributions patch calls in and out, an LSM lets a user
namespace be made and refuses the mount in it, a container around this one answers ENOSYS for a call
that the kernel has, a file system is mounted with options that overlayfs does not like.  So each
thing is found out by doing it, in children, namespaces, groups and directories that are thrown away.

    report.py     Finding, the table of checks, the verdict
    case.py       what is examined, and the trials that several checks read, made once each
    trial.py      throw-away children and directories
    sandbox.py    a child that builds namespaces and mounts one at a time and tells how each went
    kernel.py users.py mounts.py cgroups.py places.py root.py whole.py      the checks, by subject

A check is a function of the Case that returns one Finding; one that raises is itself reported.
Nothing here is on the way of `run`.
"""
