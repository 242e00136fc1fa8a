//! Text that anybody may have chosen, made fit to be shown.

/// The text in one line, whoever chose it: no line break, no escape sequence of a terminal, nothing that turns the
/// direction of reading.
pub fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\'' | '"' => harmless.push(character),
            _ => harmless.extend(character.escape_debug()),
        }
    }
    harmless
}
