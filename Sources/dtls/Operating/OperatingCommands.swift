import ArgumentParser

/// The subcommands that speak with a running dtlsd over its control socket.
enum OperatingCommands {
    static let all: [any ParsableCommand.Type] = [
        StatusCommand.self, TopCommand.self, ConnectionsCommand.self, ConnectionCommand.self, CloseCommand.self,
        ReloadCommand.self, DrainCommand.self, UpgradeCommand.self, LogLevelCommand.self, TraceCommand.self,
        CountersCommand.self, ExporterCommand.self,
    ]
}
