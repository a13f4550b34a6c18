/// Why a request was not carried out.
package struct ControlError: Codable, Error, Equatable, Sendable {
    package enum Code: String, Codable, CaseIterable, Sendable {
        /// The line is no request, or an argument is not what the command takes.
        case badRequest = "bad_request"
        case unsupportedVersion = "unsupported_version"
        case unknownCommand = "unknown_command"
        /// The daemon does not obey this user.
        case denied
        case unknownConnection = "unknown_connection"
        /// There is no service or client of this name, or no worker of this number.
        case unknownService = "unknown_service"
        /// Something else has to end first, or there are too many clients.
        case busy
        /// The daemon does not do this in the state that it is in, or as it was started.
        case refused
        /// It was tried, and has failed; ``ControlError/problems`` say why.
        case failed
    }

    /// One of ``Code``; another string from a daemon of a later version.
    package var code: String
    /// One sentence.
    package var message: String
    /// Each problem by itself, such as those of a configuration.
    package var problems: [String]?

    package init(_ code: Code, _ message: String, problems: [String]? = nil) {
        self.code = code.rawValue
        self.message = message
        self.problems = problems
    }

    /// `nil` for a code that this version does not know.
    package var knownCode: Code? { Code(rawValue: code) }
}

/// One line to a client: `{"version":1,"id":7,"ok":true,"result":{…}}`, or `"ok":false` with an `error`.
package struct ControlAnswer<Result: Codable & Sendable>: Codable, Sendable {
    package var id: RequestID?
    package var result: Swift.Result<Result, ControlError>

    package init(_ result: Swift.Result<Result, ControlError>, id: RequestID?) {
        self.id = id
        self.result = result
    }

    private enum Key: String, CodingKey { case version, id, ok, result, error }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        id = try container.decodeIfPresent(RequestID.self, forKey: .id)
        result =
            try container.decode(Bool.self, forKey: .ok)
            ? .success(try container.decode(Result.self, forKey: .result))
            : .failure(try container.decode(ControlError.self, forKey: .error))
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(ControlProtocol.version, forKey: .version)
        try container.encodeIfPresent(id, forKey: .id)
        switch result {
        case .success(let value):
            try container.encode(true, forKey: .ok)
            try container.encode(value, forKey: .result)
        case .failure(let error):
            try container.encode(false, forKey: .ok)
            try container.encode(error, forKey: .error)
        }
    }
}

/// The result of ``ControlCommand/close(_:)``.
package struct CloseResult: Codable, Equatable, Sendable {
    /// The connections whose workers were told to close them.
    package var count: Int

    package init(count: Int) { self.count = count }
}

/// The result of ``ControlCommand/reload``: all workers serve the new configuration.
package struct ReloadResult: Codable, Equatable, Sendable {
    /// The file of the configuration.
    package var file: String
    /// What is valid, and probably not what its author wants.
    package var warnings: [String]

    package init(file: String, warnings: [String]) {
        self.file = file
        self.warnings = warnings
    }
}

/// The result of ``ControlCommand/drain(worker:)``.
package struct DrainResult: Codable, Equatable, Sendable {
    /// The numbers of the workers that are being replaced.
    package var workers: [Int]

    package init(workers: [Int]) { self.workers = workers }
}

/// The result of ``ControlCommand/upgrade``: another process serves.
package struct UpgradeResult: Codable, Equatable, Sendable {
    /// The process that is the main process from now on.
    package var pid: Int32

    package init(pid: Int32) { self.pid = pid }
}

/// The result of ``ControlCommand/logLevel(_:)``.
package struct LogLevelResult: Codable, Equatable, Sendable {
    package var level: String
    /// When the level of the configuration holds again (RFC 3339); `nil` where it does already.
    package var untilAt: String?

    package init(level: String, untilAt: String?) {
        self.level = level
        self.untilAt = untilAt
    }

    private enum CodingKeys: String, CodingKey {
        case level
        case untilAt = "until_at"
    }
}

/// The result of ``ControlCommand/trace(_:)``: what is traced now.
package struct TraceResult: Codable, Equatable, Sendable {
    package var traces: [TraceStatus]

    package init(traces: [TraceStatus]) { self.traces = traces }
}

/// A client or network that is logged in detail.
package struct TraceStatus: Codable, Equatable, Sendable {
    package var address: String
    /// When it ends (RFC 3339).
    package var untilAt: String

    package init(address: String, untilAt: String) {
        self.address = address
        self.untilAt = untilAt
    }

    private enum CodingKeys: String, CodingKey {
        case address
        case untilAt = "until_at"
    }
}
