// The behaviour of map.html. It is run once, with the models and numbers that page.py names as its arguments.

const OUTLINED = 2000 // outlines drawn at most, as many as bokeh does not thin out while the map moves
const LEGIBLE = 8 // diameter on the screen from which an outline differs from a circle
const PER_DECADE = 400 // points of the curve, more than a screen has
const REACH = 4 // screen pixels by which a click may miss a crater

const data = craters.data
const { x_px: xs, y_px: ys, size, score, radius, counted, alpha, start } = data
const total = size.length
// Plain arrays: a part of bokeh's own is all of it.
const [vertexX, vertexY] = [Float32Array.from(vertices.data.x), Float32Array.from(vertices.data.y)]
const passes = new Uint8Array(total)
let scheduled = false
let width = 0 // of the map's frame when its ranges were set

const element = (id) => document.getElementById(id)
const number = (value) => value.toLocaleString("en")

function cumulative(included) {
  // Rows are sorted by size, so the n-th that is included is N(>= its size).
  const points = { size: [], n: [] }
  let n = 0
  let last = null
  for (let i = 0; i < total; i++) {
    if (!included(i) || !counted[i]) continue
    n++
    const cell = Math.floor(Math.log10(size[i]) * PER_DECADE)
    if (cell === last) {
      points.size.pop()
      points.n.pop()
    }
    last = cell
    points.size.push(size[i])
    points.n.push(n)
  }
  points.size.reverse()
  points.n.reverse()
  points.value = points.n.map((n) => n / area)
  points.low = points.n.map((n) => low[n] / area)
  points.high = points.n.map((n) => high[n] / area)
  return points
}

// The interval of a number holds from the next smaller crater on, as the number does.
function stepwise({ size, low, high }) {
  const doubled = (values) => values.flatMap((value) => [value, value])
  return { size: doubled(size).slice(0, -1), low: doubled(low).slice(1), high: doubled(high).slice(1) }
}

function filter() {
  const [smallest, largest] = size_range.value.map((power) => 10 ** power)
  let shown = 0
  let inside = 0
  for (let i = 0; i < total; i++) {
    // The columns are of single precision.
    passes[i] = size[i] >= smallest * (1 - 1e-6) && size[i] <= largest * (1 + 1e-6) && score[i] >= at_least.value - 1e-6
    shown += passes[i]
    inside += passes[i] && counted[i]
  }
  const text = document.createElement("b")
  text.textContent = number(shown)
  element("shown").replaceChildren(text, ` of ${number(total)} craters shown, ${number(inside)} in the curve`)
  curve.data = cumulative((i) => passes[i])
  band.data = stepwise(curve.data)
  draw()
}

function outlineOf(i) {
  const end = i + 1 < total ? start[i + 1] : vertexX.length
  return [vertexX.subarray(start[i], end), vertexY.subarray(start[i], end)]
}

// Only craters in and around the view are handed to the plot: the largest of them as outlines, the others as circles.
function draw() {
  scheduled = false
  const { start: left, end: right } = map.x_range
  const { start: bottom, end: top } = map.y_range
  const [marginX, marginY] = [(right - left) / 2, (bottom - top) / 2]
  const legible = (LEGIBLE * (right - left)) / map.inner_width / 2
  const near = { xs: [], ys: [], score: [], alpha: [] }
  const far = { x: [], y: [], radius: [], score: [], alpha: [] }
  for (let i = 0; i < total && style.active < 2; i++) {
    const r = radius[i]
    if (!passes[i] || xs[i] + r < left - marginX || xs[i] - r > right + marginX) continue
    if (ys[i] + r < top - marginY || ys[i] - r > bottom + marginY) continue
    if (style.active === 0 && r >= legible && near.xs.length < OUTLINED) {
      const [x, y] = outlineOf(i)
      near.xs.push(x)
      near.ys.push(y)
      near.score.push(score[i])
      near.alpha.push(alpha[i])
    } else {
      far.x.push(xs[i])
      far.y.push(ys[i])
      far.radius.push(r)
      far.score.push(score[i])
      far.alpha.push(alpha[i])
    }
  }
  outlines.data = near
  circles.data = far
  if (ground) ground.setv({ start: 0, end: (right - left) * metres_per_pixel })
}

function schedule() {
  if (scheduled) return
  scheduled = true
  setTimeout(draw, 80)
}

// Shows the whole raster at first, and retains centre and scale when the window changes.
function fit() {
  const [w, h] = [map.inner_width, map.inner_height]
  if (!(w > 0 && h > 0)) return
  const whole = 1.04 * Math.max(samples / w, lines / h)
  const around = (x, y, scale) => [x - (w / 2) * scale, x + (w / 2) * scale, y + (h / 2) * scale, y - (h / 2) * scale]
  const [left, right, bottom, top] = around(samples / 2, lines / 2, whole)
  const { x_range, y_range } = map
  x_range.setv({ reset_start: left, reset_end: right })
  y_range.setv({ reset_start: bottom, reset_end: top })
  const scale = width > 0 ? (x_range.end - x_range.start) / width : whole
  const [x, y] = width > 0 ? [x_range.start + x_range.end, y_range.start + y_range.end] : [samples, lines]
  const view = around(x / 2, y / 2, scale)
  x_range.setv({ start: view[0], end: view[1] })
  y_range.setv({ start: view[2], end: view[3] })
  width = w
}

// The smallest crater around a point, so that one inside another can be reached.
function find(x, y) {
  const reach = (REACH * (map.x_range.end - map.x_range.start)) / map.inner_width
  for (let i = total - 1; i >= 0; i--) {
    if (passes[i] && style.active < 2 && Math.hypot(xs[i] - x, ys[i] - y) <= radius[i] + reach) return i
  }
  return -1
}

function format(value, decimals) {
  if (typeof value === "string") return value
  if (Number.isNaN(value)) return "–"
  return decimals === "yes or no" ? (value ? "yes" : "no") : value.toFixed(decimals)
}

function choose(i) {
  const [x, y] = i < 0 ? [[], []] : outlineOf(i)
  chosen.data = i < 0 ? { xs: [], ys: [] } : { xs: [x], ys: [y] }
  mark.location = i < 0 ? null : size[i]
  element("hint").style.display = i < 0 ? "" : "none"
  const rows = i < 0 ? [] : fields.map(([name, description, decimals]) => {
    const row = document.createElement("tr")
    row.title = description
    row.insertCell().textContent = name
    row.insertCell().textContent = format(data[name][i], decimals)
    return row
  })
  element("row").replaceChildren(...rows)
}

function hover(event) {
  const i = find(event.x, event.y)
  const box = element("hover")
  box.style.display = i < 0 ? "none" : "block"
  if (i < 0) return
  const lines = [`D ${data.diameter_px[i].toFixed(1)} px`]
  if (!Number.isNaN(data.diameter_m[i])) lines[0] = `D ${data.diameter_m[i].toPrecision(4)} m (${lines[0].slice(2)})`
  if (!Number.isNaN(data.longitude[i])) {
    lines.push(`${data.longitude[i].toFixed(5)}° E, ${data.latitude[i].toFixed(5)}°`)
  }
  lines.push(`${score_name} ${score[i].toFixed(2)}`)
  if (!counted[i]) lines.push("centre outside the counted area")
  box.textContent = lines.join("\n")
  const leftwards = event.sx > map.outer_width / 2
  box.style.left = `${event.sx + 14}px`
  box.style.top = `${event.sy + 14}px`
  box.style.transform = leftwards ? "translateX(calc(-100% - 28px))" : ""
}

// The crater shown whose diameter is nearest to a place on the curve.
function nearest(diameter) {
  let best = -1
  const off = (i) => Math.abs(Math.log(size[i] / diameter))
  for (let i = 0; i < total; i++) if (passes[i] && counted[i] && (best < 0 || off(i) < off(best))) best = i
  return best
}

function goTo(i) {
  const { x_range, y_range } = map
  const inside = xs[i] > x_range.start && xs[i] < x_range.end && ys[i] < y_range.start && ys[i] > y_range.end
  if (inside) return
  const [w, h] = [x_range.end - x_range.start, y_range.start - y_range.end]
  x_range.setv({ start: xs[i] - w / 2, end: xs[i] + w / 2 })
  y_range.setv({ start: ys[i] + h / 2, end: ys[i] - h / 2 })
}

function onCurve(event) {
  const i = nearest(event.x)
  if (i < 0) return
  choose(i)
  goTo(i)
}

const leave = () => (element("hover").style.display = "none")
window.craterPage = { filter, schedule, fit, hover, leave, onCurve, tap: (event) => choose(find(event.x, event.y)) }
fit()
everything.data = cumulative(() => true)
filter()
