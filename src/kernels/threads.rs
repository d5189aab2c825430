//! When the rows of one call are worth more than one thread.

/// Multiplications below which a call stays on its thread: some 20 us of work.
const WORTH_SHARING: usize = 1 << 20;

/// How many rows one task takes: all of them, or an even share in whole blocks. Only the time depends on it: every row
/// is computed alone.
pub(super) fn rows_per_task(rows: usize, work_per_row: usize, block: usize) -> usize {
    if rows <= block || rows.saturating_mul(work_per_row) < WORTH_SHARING {
        return rows.max(1);
    }
    match rayon::current_num_threads() {
        1 => rows,
        threads => rows.div_ceil(2 * threads).next_multiple_of(block),
    }
}
