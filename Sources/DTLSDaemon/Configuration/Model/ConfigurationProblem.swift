/// One error in a configuration, described for the operator.
struct ConfigurationProblem: Error, Codable, Sendable, Equatable, CustomStringConvertible {
    /// The name of the configuration file, as it was passed to the reader.
    var file: String
    /// The number of the line, from 1; `nil` when the error has no line, or it is unknown.
    var line: Int?
    /// The full path of the key (`service.coap.idle_timeout`); `nil` when the error concerns the file itself.
    var key: String?
    /// What is wrong, and what is expected instead.
    var message: String
    /// Whether a later attempt may succeed without a change, as when an interface has no address yet.
    var isTransient = false

    /// `/etc/dtlsd/dtlsd.toml:12: service.coap.mtu: expected an integer of bytes, 256 to 9000, found 9001`
    var description: String {
        let place = line.map { "\(file):\($0): " } ?? "\(file): "
        return place + (key.map { "\($0): " } ?? "") + message
    }
}

/// All errors in a configuration, at least one, in the order of its lines.
struct ConfigurationProblems: Error, Codable, Sendable, Equatable, CustomStringConvertible {
    var problems: [ConfigurationProblem]

    /// The problems, one in each line.
    var description: String { problems.map(\.description).joined(separator: "\n") }
}
