"""On a terminal: a bar while it runs, and afterwards nothing but header, epochs and footer."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Iterator

CONTROL = re.compile(r"\x1b\[\??(\d*(?:;\d+)*)([A-Za-z])|([^\x1b])")


def screen(text: str) -> list[str]:
    """The lines that a terminal of any width is left with: carriage return, cursor up and erase are obeyed."""
    lines, row, column = [""], 0, 0
    for number, command, letter in CONTROL.findall(text):
        if command == "A":
            row -= int(number or 1)
        elif command == "K":
            assert number == "2"
            lines[row] = ""
        elif letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif letter:
            lines[row] = f"{lines[row][:column]:{column}}{letter}{lines[row][column + 1 :]}"
            column += 1
        else:
            assert command in "mhl", command  # colours, and the cursor hidden and shown
    return [line.rstrip() for line in lines]


def read(fd: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(fd, 1 << 16)
        except OSError:  # the other side is closed
            return


def test_a_bar_on_a_terminal_of_80_columns(warm, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    pieces: list[bytes] = []
    reader = threading.Thread(target=lambda: pieces.extend(read(ours)))
    reader.start()
    words = ("trainer.max_epochs=2", "trainer.limit_train_batches=4", "hydra.run.dir=run")
    words += (
        "dataset.batch_size=1",
        "dataset.val_size=0.5",
    )  # so many steps that every bar is drawn before it ends
    done = warm(*words, cwd=tmp_path, out=os.ttyname(theirs), COLUMNS="80", TERM="xterm")
    os.close(theirs)
    reader.join(30)
    os.close(ours)
    text = b"".join(pieces).decode()
    assert done.returncode == 0, text

    plain = CONTROL.sub(lambda found: found[3] or "", text)
    for bar in (
        r"Epoch 1/2 +━+ 0/4 ",
        r"Epoch 2/2 +━+ 4/4 ",
        r"Validation +━+ \d+/\d+ ",
        r"Testing +━+ \d+/\d+ ",
    ):
        assert re.search(bar, plain), bar
    bars = [line for line in re.split(r"[\r\n]+", plain) if "━" in line]
    assert max(map(len, bars)) <= 80

    left = screen(text)
    log = [line.split(" INFO ", 1) for line in (tmp_path / "run/log.txt").read_text().splitlines()]
    told = [line[1].rstrip() for line in log if len(line) == 2]
    assert [line for line in left if line] == told
    assert [line.split()[0] for line in told[:6]] == [
        *("parts", "parameters", "input", "device", "directory", "seed")
    ]
    assert [line.split()[:2] for line in told[6:8]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert [line.split()[0] for line in told[8:]] == [
        *("best", "last", "time", "firing", "operations", "result", "next", "snnrun")
    ]
