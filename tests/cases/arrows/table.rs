//! Tables of Markdown, and what stands between backticks.

/// The cells of every row of every table, without headings' rules. A `\|` does not end a cell.
pub(crate) fn rows(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with('|') && line.ends_with('|'))
        .filter_map(|line| {
            let inner = line.get(1..line.len() - 1)?.replace("\\|", "\u{1}");
            let cells: Vec<_> =
                inner.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect();
            let is_rule = cells.iter().all(|cell| cell.chars().all(|c| c == '-' || c == ':'));
            (!is_rule).then_some(cells)
        })
}

/// What stands between backticks, in order.
pub(crate) fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn cells_and_spans_are_found() {
    let text = "text\n| a | `b \\| c` |\n|---|:-:|\n| d | `e`, `f` |\n";
    let found: Vec<_> = rows(text).collect();
    assert_eq!(found, [["a", "`b | c`"], ["d", "`e`, `f`"]]);
    assert_eq!(spans(&found[1][1]).collect::<Vec<_>>(), ["e", "f"]);
}
