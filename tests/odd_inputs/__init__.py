"""Odd inputs by the thousand, through the real drivers: `make odd-inputs`.

Each kind mutates what is valid, by a seed. A driver must end in a result that an oracle confirms,
or in one line with status 1 and nothing left behind. Read `cases.py` first.
"""
