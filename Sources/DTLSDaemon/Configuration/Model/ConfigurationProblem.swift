/// One thing that is wrong with a configuration, as a sentence for the operator.
struct ConfigurationProblem: Error, Codable, Sendable, Equatable, CustomStringConvertible {
    /// The configuration file, as it was named to the reader.
    var file: String
    /// From 1; `nil` where no line is to blame or it is not known.
    var line: Int?
    /// The key's whole path (`service.coap.idle_timeout`); `nil` where the file itself is to blame.
    var key: String?
    /// What is wrong, and what is expected instead.
    var message: String
    /// Whether it may pass by itself, as when no name server answers.
    var isTransient = false

    /// `/etc/dtlsd/dtlsd.toml:12: service.coap.mtu: expected an integer of bytes, 256 to 9000, found 9001`
    var description: String {
        let place = line.map { "\(file):\($0): " } ?? "\(file): "
        return place + (key.map { "\($0): " } ?? "") + message
    }
}

/// Everything that is wrong with a configuration, in the order of its lines; at least one problem.
struct ConfigurationProblems: Error, Codable, Sendable, Equatable, CustomStringConvertible {
    var problems: [ConfigurationProblem]

    /// One problem a line.
    var description: String { problems.map(\.description).joined(separator: "\n") }
}
