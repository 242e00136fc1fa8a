//! Tables for people: columns under heads, one row a line, whatever is in the cells.

pub(super) use crate::keeper::operator::harmless;

/// What stands where there is nothing.
pub(super) const NOTHING: &str = "-";

/// The lines of a table: each column as wide as its widest cell, the last of any width.
pub(super) fn table<const N: usize>(heads: [&str; N], rows: Vec<[String; N]>) -> Vec<String> {
    let rows: Vec<[String; N]> = [heads.map(str::to_owned)].into_iter().chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

/// The text in one cell of its own, whoever chose it: no line break, no escape sequence of a terminal, no space.
pub(super) fn word(text: &str) -> String {
    harmless(text).replace(' ', "\\u{20}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_heads_and_a_row_is_a_line() {
        let rows = vec![[word("a b"), "1".to_owned()], [word("long\nname"), "22".to_owned()]];
        let lines = table(["NAME", "COUNT"], rows);
        assert_eq!(lines, ["NAME        COUNT", "a\\u{20}b    1", "long\\nname  22"]);
    }
}
