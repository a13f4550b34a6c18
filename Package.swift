// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// A small program that shows how DTLSKit is used; the tests run it.
func example(_ name: String) -> Target {
    .executableTarget(name: name, dependencies: ["DTLSKit"], path: "Examples/\(name)", swiftSettings: strict)
}

/// A product of another package. The daemon and its tool alone use such.
func foreign(_ name: String, of package: String) -> Target.Dependency {
    .product(name: name, package: package, condition: .when(traits: ["Daemon"]))
}

/// A product of swift-nio, which DTLSNIO and its tests alone use.
func nio(_ name: String) -> Target.Dependency {
    .product(name: name, package: "swift-nio", condition: .when(traits: ["NIO"]))
}

let library: [Target] = [
    .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
    .target(name: "CLinux"),
    .target(name: "Primitives", swiftSettings: strict),
    .target(name: "LinuxSystem", dependencies: ["CLinux", "Primitives"], swiftSettings: strict),
    .target(name: "COpenSSLClock"),
    .target(name: "DTLSEngine", dependencies: ["COpenSSL", "COpenSSLClock", "Primitives"], swiftSettings: strict),
    .target(
        name: "DTLSTransport", dependencies: ["DTLSEngine", "LinuxSystem", "Primitives"], swiftSettings: strict),
    .target(
        name: "DTLSKit", dependencies: ["DTLSTransport", "DTLSEngine", "LinuxSystem", "Primitives"],
        swiftSettings: strict),
    example("SynchronousServer"),
    example("AsynchronousServer"),
    example("Client"),
    example("MultitaskServer"),
    example("SwiftServer"),
    example("CoapServer"),
    .executableTarget(
        name: "DTLSKitSoak", dependencies: ["DTLSKit", "CLinux"], path: "Tests/DTLSKitSoak", swiftSettings: strict),
    .executableTarget(
        name: "DTLSKitTasks", dependencies: ["DTLSKit"], path: "Tests/DTLSKitTasks", swiftSettings: strict),
    .executableTarget(
        name: "DTLSKitThreads", dependencies: ["DTLSKit"], path: "Tests/DTLSKitThreads", swiftSettings: strict),
    .testTarget(
        name: "DTLSKitTests",
        dependencies: [
            "DTLSKit", "DTLSTransport", "LinuxSystem", "Primitives", "CLinux", "SynchronousServer",
            "AsynchronousServer", "Client",
            "MultitaskServer", "SwiftServer", "CoapServer", "DTLSKitSoak", "DTLSKitTasks", "DTLSKitThreads",
            "TestSupport",
        ],
        swiftSettings: strict
    ),
    .testTarget(
        name: "DTLSTransportTests",
        dependencies: [
            "DTLSTransport", "DTLSEngine", "LinuxSystem", "Primitives", "CLinux", "TestSupport", "VirtualClock",
        ],
        swiftSettings: strict),
    .target(name: "VirtualClock", path: "Tests/VirtualClock"),
    .testTarget(name: "PrimitivesTests", dependencies: ["Primitives", "TestSupport"], swiftSettings: strict),
    .target(
        name: "TestSupport", dependencies: ["LinuxSystem", "Primitives", "CLinux"], path: "Tests/TestSupport",
        swiftSettings: strict),
    .testTarget(
        name: "LinuxSystemTests", dependencies: ["LinuxSystem", "Primitives", "CLinux", "TestSupport"],
        swiftSettings: strict),
    .testTarget(
        name: "DTLSEngineTests",
        dependencies: ["DTLSEngine", "Primitives", "COpenSSL", "CLinux", "VirtualClock", "TestSupport"],
        swiftSettings: strict),
]

/// Without the trait NIO, nothing is in these.
let eventLoops: [Target] = [
    .target(
        name: "DTLSNIO",
        dependencies: [
            "DTLSKit", "DTLSTransport", "DTLSEngine", "LinuxSystem", "Primitives", nio("NIOCore"), nio("NIOTLS"),
        ],
        swiftSettings: strict),
    .executableTarget(
        name: "NIOServer", dependencies: ["DTLSKit", "DTLSNIO", nio("NIOCore"), nio("NIOPosix")],
        path: "Examples/NIOServer", swiftSettings: strict),
    .executableTarget(
        name: "NIOClient", dependencies: ["DTLSKit", "DTLSNIO", nio("NIOCore"), nio("NIOPosix")],
        path: "Examples/NIOClient", swiftSettings: strict),
    .testTarget(
        name: "DTLSNIOTests",
        dependencies: [
            "DTLSNIO", "NIOServer", "NIOClient", "DTLSKit", "LinuxSystem", "Primitives", "TestSupport", nio("NIOCore"),
            nio("NIOPosix"),
            nio("NIOEmbedded"), nio("NIOTLS"),
        ],
        swiftSettings: strict),
]

let daemon: [Target] = [
    .target(name: "ControlProtocol", dependencies: ["Primitives"], swiftSettings: strict),
    .testTarget(
        name: "ControlProtocolTests", dependencies: ["ControlProtocol", "Primitives"], swiftSettings: strict),
    .systemLibrary(name: "CSystemd", pkgConfig: "libsystemd", providers: [.apt(["libsystemd-dev"])]),
    .systemLibrary(name: "CJansson", pkgConfig: "jansson", providers: [.apt(["libjansson-dev"])]),
    .systemLibrary(name: "CCares", pkgConfig: "libcares", providers: [.apt(["libc-ares-dev"])]),
    .target(
        name: "DTLSDaemon",
        dependencies: [
            "ControlProtocol", "DTLSTransport", "DTLSEngine", "LinuxSystem", "Primitives", "CSystemd", "CCares",
            "CJansson",
            foreign("Logging", of: "swift-log"),
            foreign("TOMLKit", of: "TOMLKit"),
        ],
        swiftSettings: strict
    ),
    .testTarget(
        name: "DTLSDaemonTests",
        dependencies: [
            "DTLSDaemon", "ControlProtocol", "DTLSTransport", "DTLSEngine", "LinuxSystem", "Primitives", "CLinux",
            "TestSupport",
            foreign("Logging", of: "swift-log"),
        ],
        swiftSettings: strict
    ),
]

let program: [Target] = [
    .systemLibrary(name: "CMicrohttpd", pkgConfig: "libmicrohttpd", providers: [.apt(["libmicrohttpd-dev"])]),
    .executableTarget(
        name: "dtlsd",
        dependencies: ["DTLSDaemon", "Primitives", foreign("ArgumentParser", of: "swift-argument-parser")],
        swiftSettings: strict
    ),
    .executableTarget(
        name: "dtls",
        dependencies: [
            "ControlProtocol", "DTLSKit", "DTLSTransport", "DTLSEngine", "LinuxSystem", "CLinux", "CMicrohttpd",
            "Primitives",
            foreign("ArgumentParser", of: "swift-argument-parser"),
            foreign("Histogram", of: "hdrhistogram-swift"),
        ],
        swiftSettings: strict
    ),
    // Makes the man pages when a package is built (packaging/debian/rules).
    .executableTarget(
        name: "ManualPages",
        dependencies: ["DTLSDaemon", foreign("ArgumentParser", of: "swift-argument-parser")],
        swiftSettings: strict
    ),
    .testTarget(name: "ManualPagesTests", dependencies: ["ManualPages", "DTLSDaemon"], swiftSettings: strict),
    .testTarget(
        name: "DTLSToolTests",
        dependencies: [
            "dtls", "ControlProtocol", "DTLSKit", "DTLSEngine", "LinuxSystem", "CLinux", "Primitives", "TestSupport",
            foreign("ArgumentParser", of: "swift-argument-parser"),
        ],
        swiftSettings: strict),
    .testTarget(
        name: "EndToEndTests", dependencies: ["dtlsd", "dtls", "LinuxSystem", "CLinux", "Primitives", "TestSupport"],
        exclude: ["Programs"],
        swiftSettings: strict),
    .testTarget(name: "SystemdTests", dependencies: ["TestSupport"], exclude: ["lab"], swiftSettings: strict),
]

/// `scripts/test` builds the unit tests alone for AddressSanitizer, which makes every build longer.
let isProgramLeftOut = Context.environment["DTLSD_WITHOUT_PROGRAM"] != nil

let package = Package(
    name: "dtlsd",
    products: [
        .library(name: "DTLSKit", targets: ["DTLSKit"]), .library(name: "DTLSNIO", targets: ["DTLSNIO"]),
    ]
        + (isProgramLeftOut
            ? []
            : [
                .executable(name: "dtlsd", targets: ["dtlsd"]), .executable(name: "dtls", targets: ["dtls"]),
                .executable(name: "dtlsd-manual", targets: ["ManualPages"]),
            ]),
    // Who builds on DTLSKit alone leaves the traits out (`traits: []`), and SwiftPM then fetches none of these packages.
    traits: [
        .default(enabledTraits: ["Daemon"]),
        .trait(name: "Daemon", description: "The daemon dtlsd and its tool; DTLSKit does not need it."),
        .trait(name: "NIO", description: "The product DTLSNIO, for programs on swift-nio; nothing else needs it."),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/LebJe/TOMLKit", from: "0.6.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: library + eventLoops + daemon + (isProgramLeftOut ? [] : program)
)
