//! Boots side by side: each takes one core.

/// Does the work for each item, as many of them at a time as there are cores; the results in the items' order.
pub fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    let mut results = Vec::new();
    for together in items.chunks(lanes) {
        std::thread::scope(|scope| {
            let running: Vec<_> = together
                .iter()
                .map(|item| scope.spawn(|| work(item)))
                .collect();
            for lane in running {
                match lane.join() {
                    Ok(result) => results.push(result),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_its_result_in_its_place() {
        let squares = side_by_side(&[1, 2, 3, 4, 5], |number| number * number);
        assert_eq!(squares, [1, 4, 9, 16, 25]);
    }
}
