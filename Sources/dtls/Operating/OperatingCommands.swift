import ArgumentParser

/// The subcommands that speak with a running dtlsd over its control socket.
enum OperatingCommands {
    static let all: [any ParsableCommand.Type] = []
}
