/// Reads which handler a service has, and the table of its settings.
enum HandlerReader {
    private enum Name: String, CaseIterable {
        case echo, forward, exec, log
    }

    static func read(_ table: TableReader<ServiceKey>) -> HandlerConfiguration? {
        let names = Name.allCases.map(\.rawValue)
        table.require(.handler, ReadContext.alternatives(names))
        let name = table.choice(.handler, of: names, Name.init(rawValue:))
        let forward = table.table(.forward, ForwardKey.self).flatMap(ForwardReader.read)
        checkTable(.forward, of: name?.rawValue, table)
        let exec = table.table(.exec, ExecKey.self).flatMap(ExecReader.read)
        checkTable(.exec, of: name?.rawValue, table)
        let log = table.table(.log, LogKey.self).flatMap(LogReader.read)
        if table.has(.log) { checkTable(.log, of: name?.rawValue, table) }
        switch name {
        case .echo: return .echo
        case .forward: return forward.map { .forward($0) }
        case .exec: return exec.map { .exec($0) }
        case .log: return table.has(.log) ? log.map { .log($0) } : .log(.standard)
        case nil: return nil
        }
    }

    /// A handler's table has its name: it is there with this handler, and with no other.
    private static func checkTable(_ key: ServiceKey, of handler: String?, _ table: TableReader<ServiceKey>) {
        guard let handler else { return }
        if handler == key.rawValue, !table.has(key) {
            table.report(.handler, "\"\(handler)\" needs its table; expected [service.NAME.\(handler)]")
        } else if handler != key.rawValue, table.has(key) {
            table.report(
                key, "this table has no effect with handler = \"\(handler)\"; expected \"\(key.rawValue)\"")
        }
    }
}

/// Reads `[service.NAME.forward]`.
enum ForwardReader {
    static func read(_ table: TableReader<ForwardKey>) -> ForwardConfiguration? {
        // Read before anything can be missing, so that all that is wrong is reported.
        let proxyProtocol = table.bool(.proxyProtocol) ?? false
        return BackendReader.read(table).map { ForwardConfiguration(backends: $0, proxyProtocol: proxyProtocol) }
    }
}
