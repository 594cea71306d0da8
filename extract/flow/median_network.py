"""Comparison networks for a 5x5 median: pairs of wires, `(i, j)` leaves the smaller value on i.

The five values of each column are sorted by `SORT5` and shared by the five windows the column is
part of. From five sorted columns the median follows by `MEDIAN_OF_SORTED_COLUMNS`, whose wire
5 * rank + column holds that rank of that column; the median ends on `MEDIAN_WIRE`. The network was
found by a random search: start with one that sorts each rank's row and then selects, leave out
every comparison without which all 7,776 possible inputs of zeros and ones still come out right
(the 0-1 principle: then all inputs do; tests/test_extract_tvl1_kernels.py repeats that proof).
"""

SORT5 = ((0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3))
MEDIAN_OF_SORTED_COLUMNS = (
    *((0, 4), (1, 3), (0, 2), (2, 4), (2, 3), (1, 4), (3, 4), (5, 6), (8, 9), (7, 9), (7, 8)),
    *((6, 9), (5, 8), (6, 8), (6, 7), (10, 13), (11, 14), (10, 12), (11, 13), (10, 11), (12, 14)),
    *((11, 12), (13, 14), (12, 13), (15, 19), (16, 18), (15, 17), (17, 19), (15, 16), (17, 18)),
    *((16, 19), (16, 17), (20, 24), (21, 23), (20, 22), (20, 21), (22, 23), (21, 24), (21, 22)),
    *((15, 11), (3, 7), (20, 16), (4, 8), (21, 9), (11, 7), (20, 4), (16, 8), (12, 21), (7, 16)),
    *((21, 17), (16, 4), (13, 21), (16, 13), (7, 16), (4, 12), (16, 4)),
)
MEDIAN_WIRE = 4
