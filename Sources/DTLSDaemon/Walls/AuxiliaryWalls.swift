import CLinux
import Glibc
import LinuxSystem

/// What the kernel keeps the processes beside the workers from: the loader, the resolver and the checker. Each has a table of
/// what it needs. The walls of workers depend on the configuration (``WorkerWalls``).
///
/// Decision 0031 (docs/decisions/0031-auxiliary-walls.md) has the reasons.
struct AuxiliaryWalls {
    private var capabilities: Privileges.Capabilities = []
    /// The bytes of memory that it may have.
    private var memory: Int?
    private var files: [FileWall.Grant] = []
    private var opening: [SystemCalls.Opening] = []
    private var sockets: [(family: Int32, type: __socket_type)] = []
    /// Beside those of every process.
    private var calls: [Int32] = []
    private var fileCommands: [Int32] = []
    private var loadsLibraries = false

    /// Raises the walls, for good. What the kernel does not have, or does not let this process do, is left out: workers find
    /// the same missing, and the log says so.
    func raise() {
        try? Privileges.dropCapabilities(except: capabilities)
        try? Privileges.forbidNew()
        Privileges.limitResources(memory: memory)
        let connectsTCP = sockets.contains { $0.family != AF_UNIX && $0.type == SOCK_STREAM }
        try? FileWall.raise(files, connectsTCP: connectsTCP)
        try? filter.install()
    }

    private var filter: SystemCallFilter {
        var filter = SystemCallFilter.allowingNothing
        filter.add(.allow, SystemCalls.ofDescriptors + SystemCalls.ofLibraries + calls)
        filter.addChecked(loadsLibraries: loadsLibraries, commands: fileCommands)
        if !opening.isEmpty { filter.addOpening(opening) }
        if !sockets.isEmpty { filter.addSockets(sockets) }
        // The index of an interface, by its name.
        filter.add(.allow, CL_SYS_ioctl, where: [[.bits(of: 1, are: UInt32(SIOCGIFINDEX))]])
        filter.add(.kill, SystemCalls.ofAttackers)
        return filter
    }

    /// The resolver and the checker keep nothing, and a check or question takes some kilobytes.
    private static let littleMemory = 256 << 20

    /// The loader reads files: all that its user can read, since the configuration may name any of them.
    static func loader(_ needs: LoaderNeeds) -> AuxiliaryWalls {
        var walls = AuxiliaryWalls()
        // Files of another user with mode 600, where root starts the daemon.
        walls.capabilities = .readAllFiles
        walls.files = [.reading(in: "/")]
        walls.opening = [.reading]
        walls.calls = SystemCalls.ofFiles + [CL_SYS_memfd_create]
        walls.fileCommands = [CL_F_ADD_SEALS]
        if needs.keyLog {
            walls.capabilities.insert(.useAllFiles)
            walls.files.append(.logs(in: "/"))
            walls.opening.append(.appending)
        }
        if needs.accounts {
            // Modules of the C library for users and groups (nsswitch.conf(5)) are loaded, and ask services of this machine.
            walls.loadsLibraries = true
            walls.sockets.append((AF_UNIX, SOCK_STREAM))
            walls.calls += [CL_SYS_connect, CL_SYS_timerfd_create, CL_SYS_timerfd_settime]
        }
        if needs.sources {
            // Whether this machine has an address, and can send from it to another one, is found by trying.
            walls.sockets += [(AF_INET, SOCK_DGRAM), (AF_INET6, SOCK_DGRAM)]
            walls.calls += [CL_SYS_bind, CL_SYS_connect]
        }
        if needs.user {
            // Whether that user can read a file is found by trying (``UserAccount/errorOfReading(_:)``), and where it can
            // write is looked at with root's rights.
            walls.capabilities.formUnion([.becomeOthers, .useAllFiles])
            walls.calls += [CL_SYS_getgroups, CL_SYS_setgroups, CL_SYS_setfsuid, CL_SYS_setfsgid]
        }
        return walls
    }

    /// The resolver asks name servers, by UDP and by TCP.
    static func resolver(_ files: ResolverFiles) -> AuxiliaryWalls {
        var walls = AuxiliaryWalls()
        walls.memory = littleMemory
        walls.files = files.paths.map { .readingFile($0) }
        walls.opening = [.reading]
        walls.sockets = [AF_INET, AF_INET6].flatMap { [($0, SOCK_DGRAM), ($0, SOCK_STREAM)] }
        walls.calls = [CL_SYS_connect]
        return walls
    }

    /// The checker sends datagrams to backends.
    static var checker: AuxiliaryWalls {
        var walls = AuxiliaryWalls()
        walls.memory = littleMemory
        walls.sockets = [AF_INET, AF_INET6, AF_UNIX].map { ($0, SOCK_DGRAM) }
        walls.calls = [CL_SYS_connect, CL_SYS_bind]
        return walls
    }
}

/// What a loader needs beyond reading files, which the keys of the file tell before a parser has seen it.
struct LoaderNeeds {
    /// The file for the secrets of connections is made, and opened for appending.
    var keyLog = false
    /// Users or groups are looked up.
    var accounts = false
    /// Addresses that datagrams are sent from are looked for.
    var sources = false
    /// The daemon will be another user.
    var user = false

    init() {}

    init(_ keys: KeyLines) {
        keyLog = keys.has(["key_log_file"])
        user = keys.has(["user"])
        sources = ["service", "client"].contains { keys.mayHave("source", belowTablesIn: $0) }
        accounts = user || keys.has(["group"]) || keys.mayHave("group", in: ["control"])
    }
}
