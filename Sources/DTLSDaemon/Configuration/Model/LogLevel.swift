/// The levels of `log_level`, by their names in the file.
enum LogLevel: String, Codable, Sendable, CaseIterable {
    case debug, info, notice, warning, error
}

/// What log entries look like, by the names in the file.
enum LogEntryFormat: String, Codable, Sendable, CaseIterable {
    /// Fields of the journal under systemd, else lines of text on standard error.
    case text
    /// Lines of JSON on standard output.
    case json
}
