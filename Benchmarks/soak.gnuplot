# Draws what scripts/soak has measured: a .svg beside each .tsv of the working directory. Between the two lines no fault ends
# a process any more, and behind the second one it is judged.
set datafile separator tab
set datafile missing "?"
load "times.gp"
set terminal svg size 1100,280 dynamic font "sans-serif,12" background "white"
set key outside right top vertical
# The same for all, so that one time is at one place in each.
set lmargin 9
set rmargin 24
set grid
set xlabel "minutes"
set xrange [0:*]
set yrange [0:*]
set arrow from calm, graph 0 to calm, graph 1 nohead dashtype 2 linecolor "gray40"
set arrow from judged, graph 0 to judged, graph 1 nohead linecolor "gray40"
do for [name in "memory descriptors wait others median p99"] {
    if (name eq "median" || name eq "p99") {
        set logscale y
        set yrange [*:*]
    }
    set output name.".svg"
    plot for [column = 2:*] name.".tsv" using 1:column with linespoints pointtype 7 pointsize 0.4 title columnheader(column)
}
