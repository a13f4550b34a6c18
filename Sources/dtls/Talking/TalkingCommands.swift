import ArgumentParser

/// The subcommands that talk to DTLS servers as clients do.
enum TalkingCommands {
    static let all: [any ParsableCommand.Type] = [
        ConnectCommand.self, ProbeCommand.self, BenchCommand.self, CertCommand.self, PSKCommand.self,
    ]
}
