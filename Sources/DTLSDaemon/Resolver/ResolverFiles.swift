import CLinux
import Glibc

/// The files that c-ares reads, and which they were when the resolver began: it may open these alone, and files that have
/// taken their place since cannot be granted to it any more (``FileWall``).
struct ResolverFiles {
    private struct Identity: Equatable {
        let device: dev_t
        let number: ino_t
    }

    /// Those of c-ares 1.18 to 1.34, and /dev/urandom, which the former takes its random numbers from.
    private static let usual = [
        "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/svc.conf", "/etc/netsvc.conf",
        "/etc/services", "/dev/urandom",
    ]

    let paths: [String]
    private let identities: [Identity?]

    init() {
        let variables: [String] = ["HOSTALIASES", "CARES_HOSTS"]
        let named = variables.compactMap { name in getenv(name).map { String(cString: $0) } }
        paths = Self.usual + named
        identities = paths.map { Self.identity(of: $0) }
    }

    /// Whether one of them is another file by now, has come, or is gone.
    var haveChanged: Bool { paths.map { Self.identity(of: $0) } != identities }

    /// That of what a symbolic link leads to; `nil` where there is no file.
    private static func identity(of path: String) -> Identity? {
        var status = stat()
        return stat(path, &status) == 0 ? Identity(device: status.st_dev, number: status.st_ino) : nil
    }
}
