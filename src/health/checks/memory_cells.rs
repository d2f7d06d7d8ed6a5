//! What was done about bad memory: rows that others stand in for, and pages that are not used any more.

use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::domain::gpu::health::{Reading, RemappedRows, RetiredPages};
use crate::health::verdict::Judgement;

/// Pages that a board can retire: the driver's documentation has the board replaced from here on.
const MOST_PAGES: u64 = 63;

/// Rows, on boards since A100.
pub(super) fn rows(reading: &Reading<RemappedRows>) -> Finding {
    let rows = match reading {
        Reading::Known(rows) => rows,
        Reading::NotSupported => return Finding::NotThere,
        Reading::Failed { .. } => return Finding::Unseen,
    };
    let RemappedRows { corrected, uncorrected, is_pending, has_failed } = rows;
    let (action, reason, state) = match (has_failed, is_pending) {
        (true, _) => (
            Action::Inspect,
            "A bad row of the GPU's memory could not be replaced: no spare row is left.",
            "one could not be replaced",
        ),
        (false, true) => (
            Action::ResetGpu,
            "A bad row of the GPU's memory is replaced with the next reset; until then it is used.",
            "one waits for a reset",
        ),
        (false, false) => return Finding::InOrder,
    };
    let evidence =
        format!("rows remapped: {corrected} after corrected errors, {uncorrected} after uncorrectable ones; {state}");
    Finding::fault(Judgement::new(Verdict::Gpu, action, reason), evidence)
}

/// Pages, on boards before A100.
pub(super) fn pages(pages: &RetiredPages) -> Finding {
    let count = |reading: &Reading<u64>| reading.known().copied().unwrap_or(0);
    let (single_bit, double_bit) = (count(&pages.single_bit), count(&pages.double_bit));
    let evidence =
        format!("pages retired: {single_bit} after corrected errors, {double_bit} after uncorrectable ones");
    if single_bit.saturating_add(double_bit) >= MOST_PAGES {
        let reason =
            format!("The GPU has retired {MOST_PAGES} pages of its memory or more: it cannot retire others.");
        return Finding::fault(Judgement::new(Verdict::Gpu, Action::Inspect, reason), evidence);
    }
    match &pages.is_pending {
        Reading::Known(true) => {
            let reason = "A bad page of the GPU's memory is retired with the next reset; until then it is used.";
            let evidence = format!("{evidence}; one waits for a reset");
            Finding::fault(Judgement::new(Verdict::Gpu, Action::ResetGpu, reason), evidence)
        }
        Reading::Known(false) => Finding::InOrder,
        Reading::NotSupported => Finding::NotThere,
        Reading::Failed { .. } => Finding::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, told};
    use super::*;

    const RESET: Told = Told::Fault(Verdict::Gpu, Action::ResetGpu);
    const INSPECT: Told = Told::Fault(Verdict::Gpu, Action::Inspect);

    #[test]
    fn rows_that_wait_and_rows_that_ran_out() {
        for (is_pending, has_failed, expected) in
            [(false, false, Told::InOrder), (true, false, RESET), (false, true, INSPECT), (true, true, INSPECT)]
        {
            // Rows that were replaced are no trouble.
            let rows = RemappedRows { corrected: 9, uncorrected: 30, is_pending, has_failed };
            assert_eq!(told(&super::rows(&Reading::Known(rows))), expected, "{rows:?}");
        }
        assert_eq!(told(&rows(&Reading::NotSupported)), Told::NotThere);
        assert_eq!(told(&rows(&Reading::Failed { code: 999, message: String::new() })), Told::Unseen);
    }

    #[test]
    fn pages_that_wait_and_pages_that_ran_out() {
        for (single_bit, double_bit, is_pending, expected) in [
            (0, 0, false, Told::InOrder),
            (30, 32, false, Told::InOrder),
            (1, 0, true, RESET),
            (60, 3, false, INSPECT),
            (u64::MAX, 1, true, INSPECT),
        ] {
            let known = Reading::Known;
            let (single_bit, double_bit) = (known(single_bit), known(double_bit));
            let pages = RetiredPages { single_bit, double_bit, is_pending: Reading::Known(is_pending) };
            assert_eq!(told(&super::pages(&pages)), expected, "{pages:?}");
        }
        assert_eq!(told(&pages(&RetiredPages::default())), Told::NotThere);
    }
}
