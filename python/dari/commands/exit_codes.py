"""How `dari` ends, for scripts.

| code | name        | when                                                                                       |
|------|-------------|--------------------------------------------------------------------------------------------|
| 0    | OK          | done                                                                                       |
| 1    | FAILED      | the server, or the database of `migrate`, refused; a watched upload came to nothing        |
| 2    | USAGE       | the command line is wrong                                                                  |
| 3    | DIFFERENT   | `map apply --dry-run`: the mapping is not as the file says                                 |
| 65   | BAD_INPUT   | a file that was read is cut or damaged, its gzip or zstd not whole, or is no configuration |
| 66   | NO_INPUT    | a file or URI that was to be read cannot be                                                |
| 69   | UNAVAILABLE | the server, or a neighbour that it needs, was not reached: the same command may work later; |
|      |             | for `serve`: the database was not there within `database_start_timeout_s`                   |
| 70   | UNEXPECTED  | `demo` saw something else than it must                                                     |
| 73   | NO_OUTPUT   | a file that was to be written cannot be                                                    |
| 78   | CONFIG      | the settings cannot be used; all problems are on stderr                                    |
| 130  | INTERRUPTED | Ctrl-C                                                                                     |

From 65 on they are those of sysexits.h, and the shell's for SIGINT.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """See the table of the module."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DIFFERENT = 3
    BAD_INPUT = 65
    NO_INPUT = 66
    UNAVAILABLE = 69
    UNEXPECTED = 70
    NO_OUTPUT = 73
    CONFIG = 78
    INTERRUPTED = 130
