import Glibc
import LinuxSystem
import TOMLKit

/// The table `[control]`.
extension ControlConfiguration {
    static let schema = Schema<Self> {
        Key(
            "path", \.path, .controlPath,
            default: "control.sock in the unit's RuntimeDirectory=, or in /run/dtlsd where that is a folder",
            doc: "The Unix socket over which `dtls` and other programs control the daemon.")
        Key("mode", \.mode, .fileMode, doc: "The permissions of the socket.")
        Key(
            "group", \.group, .group, default: "the group of the daemon",
            doc: "The group of the socket, whose members may control the daemon.")
    }
}

extension ValueType where Value == String {
    fileprivate static var controlPath: Self {
        Self(
            scalar: "the absolute path of a Unix socket, at most \(maximumUnixPathLength) bytes, or \"\" for none",
            { value in
                value.string.flatMap { path in
                    let isPath = path.hasPrefix("/") && !path.hasSuffix("/") && !path.utf8.contains(0)
                    return path.isEmpty || isPath && path.utf8.count <= maximumUnixPathLength ? path : nil
                }
            })
    }
}

extension ValueType where Value == UInt32 {
    /// The permissions of a file, as chmod(1) takes them.
    fileprivate static var fileMode: Self {
        Self(
            scalar: "the permissions of a file as a string of octal digits, \"0600\" to \"0777\"",
            text: { "\"0\(String($0, radix: 8))\"" },
            { value in
                guard let text = value.string, (3...4).contains(text.utf8.count),
                    text.utf8.count == 3 || text.first == "0",
                    text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "7")).contains($0) }),
                    let mode = UInt32(text, radix: 8), mode & 0o600 == 0o600
                else { return nil }
                return mode
            })
    }

    /// The number of a group of this machine.
    static var group: Self {
        let expected = "the name of a group of this machine, or its number as a string"
        return Self(expected) { field in
            guard let name = field.value?.string, !name.isEmpty else {
                field.reportMismatch()
                return nil
            }
            if let number = UInt32(name) { return number }
            var entry = Glibc.group()
            var found: UnsafeMutablePointer<Glibc.group>?
            var buffer = [CChar](repeating: 0, count: 65_536)
            guard getgrnam_r(name, &entry, &buffer, buffer.count, &found) == 0, found != nil else {
                field.report("there is no group \(ReadContext.quoted(name)); expected \(expected)")
                return nil
            }
            return entry.gr_gid
        }
    }
}
