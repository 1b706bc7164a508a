"""Writes the Parquet files of tests/golden/data/ with pyarrow (26.0.1).

    python tests/golden/make_parquet.py
"""
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent / "data"
N = 2500  # more than one batch of the reader, in three row groups
table = pa.table({
    "id": pa.array(range(N), pa.int32()),
    "text": pa.array([f"text {i} é" for i in range(N)], pa.string()),
    "label": pa.array([i % 3 for i in range(N)], pa.int64()),
    "score": pa.array([i / 8 for i in range(N)], pa.float32()),
    "flag": pa.array([i % 2 == 0 for i in range(N)], pa.bool_()),
    "words": pa.array([["a", "b"]] * N, pa.list_(pa.string())),
})
pq.write_table(table, HERE / "good.parquet", compression="zstd", row_group_size=1000)
pq.write_table(pa.table({"text": ["a", "b", "c"], "label": pa.array(["x", None, "y"])}), HERE / "null.parquet",
               compression="snappy")
pq.write_table(pa.table({"text": ["a"], "label": pa.array([1], pa.date32())}), HERE / "date.parquet", compression="none")
