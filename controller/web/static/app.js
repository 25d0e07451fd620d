// What the page does beyond htmx: the grid of cells, the dialog, and times that go on. Everything works without it but the grid.
"use strict"
;(() => {
  const dialog = () => document.getElementById("dialog")

  // Actions are asked for in a dialog; without this script the same address is a page.
  document.addEventListener("htmx:afterSwap", (event) => {
    const box = dialog()
    if (event.target.id === "dialog-body" && box && !box.open) box.showModal()
  })
  document.addEventListener("click", (event) => {
    const closing = event.target.closest("[data-close]")
    const box = dialog()
    if (closing && box && box.open) {
      event.preventDefault()
      box.close()
    }
    const chosen = event.target.closest("[data-code]")
    if (chosen) highlight(chosen.dataset.code)
  })

  // `4 min ago` goes on by itself; the moment is in the element.
  const words = (seconds) => {
    for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]])
      if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`
    return `${Math.floor(seconds)} s`
  }
  const tick = () => {
    for (const element of document.querySelectorAll("time[data-ago]")) {
      const seconds = (Date.now() - Date.parse(element.dateTime)) / 1000
      const text = seconds < 0 ? `in ${words(-seconds)}` : seconds < 5 ? "just now" : `${words(seconds)} ago`
      if (element.textContent !== text) element.textContent = text
    }
  }
  setInterval(tick, 5000)

  // The grid: one cell for each letter of a string. The shapes are those of shapes.svg.
  const LABEL = 22
  const FILLED = { a: 0.2, f: 0.42, g: 0.64, w: 0.85 }
  const grids = new Map()
  let shown = ""

  const shape = (pen, code, x, y, size, colour, paper) => {
    const line = Math.max(1, Math.round(size / 9))
    const outline = () => {
      pen.lineWidth = line
      pen.strokeRect(x + line / 2, y + line / 2, size - line, size - line)
    }
    const stroke = (width, ...points) => {
      pen.lineWidth = width
      pen.beginPath()
      points.forEach(([px, py], i) => pen[i % 2 ? "lineTo" : "moveTo"](x + px * size, y + py * size))
      pen.stroke()
    }
    const triangle = () => {
      pen.beginPath()
      pen.moveTo(x + size * 0.9, y + size * 0.05)
      pen.lineTo(x + size * 0.9, y + size * 0.95)
      pen.lineTo(x + size * 0.05, y + size * 0.5)
      pen.closePath()
    }
    pen.fillStyle = pen.strokeStyle = colour
    if (code === "s") pen.fillRect(x, y, size, size)
    else if (code in FILLED) {
      outline()
      const high = Math.max(1, Math.round(size * FILLED[code]))
      pen.fillRect(x, y + size - high, size, high)
    } else if (code === "b") {
      outline()
      pen.fillRect(x + size * 0.3, y + size * 0.3, size * 0.4, size * 0.4)
    } else if (code === "x") {
      pen.fillRect(x, y, size, size)
      pen.strokeStyle = paper
      stroke(Math.max(1, size / 6), [0.2, 0.2], [0.8, 0.8], [0.8, 0.2], [0.2, 0.8])
    } else if (code === "k") {
      triangle()
      pen.fill()
    } else if (code === "r") {
      pen.lineWidth = line
      triangle()
      pen.stroke()
    } else if (code === "j") {
      pen.beginPath()
      pen.arc(x + size / 2, y + size / 2, size / 2, 0, 7)
      pen.fill()
      pen.strokeStyle = paper
      stroke(Math.max(1, size / 5), [0.2, 0.5], [0.8, 0.5])
    } else if (code === "q") {
      pen.setLineDash([size / 4, size / 4])
      outline()
      pen.setLineDash([])
    } else if (code === "h") stroke(Math.max(1, size / 5), [0.3, 0.1], [0.3, 0.9], [0.7, 0.1], [0.7, 0.9])
    else if (code === "v") stroke(Math.max(1, size / 6), [0.1, 0.25], [0.5, 0.75], [0.5, 0.75], [0.9, 0.25])
    else if (code === "c") stroke(Math.max(1, size / 5), [0.05, 0.5], [0.95, 0.5])
    else if (code === "d") {
      outline()
      pen.fillRect(x + size * 0.38, y + size * 0.38, Math.max(1, size * 0.24), Math.max(1, size * 0.24))
    } else if (code === "m") {
      outline()
      stroke(line, [0.1, 0.9], [0.9, 0.1])
    } else if (code === "i") {
      pen.lineWidth = line
      pen.strokeRect(x + size * 0.3, y + size * 0.3, size * 0.4, size * 0.4)
    } else if (code === "o" || code === "n" || code === "l") {
      if (code === "n") pen.setLineDash([size / 5, size / 5])
      pen.lineWidth = line
      pen.beginPath()
      pen.arc(x + size / 2, y + size / 2, size / 2 - line / 2, 0, 7)
      pen.stroke()
      pen.setLineDash([])
      if (code === "o") {
        pen.beginPath()
        pen.arc(x + size / 2, y + size / 2, size / 4, 0, 7)
        pen.fill()
      } else if (code === "l") stroke(line, [0.5, 0.2], [0.5, 0.55], [0.5, 0.5], [0.8, 0.5])
    } else if (code === "z") stroke(line, [0.15, 0.15], [0.85, 0.15], [0.85, 0.15], [0.15, 0.85], [0.15, 0.85], [0.85, 0.85])
    else if (code === "e") {
      pen.beginPath()
      pen.moveTo(x, y)
      pen.lineTo(x, y + size)
      pen.lineTo(x + size, y + size)
      pen.closePath()
      pen.fill()
    } else if (code === "u") pen.fillRect(x + size * 0.35, y + size * 0.35, size * 0.3, size * 0.3)
    else outline()
  }

  const pitch = (count, width) => {
    const wanted = count <= 60 ? 30 : count <= 300 ? 22 : count <= 1500 ? 14 : count <= 4000 ? 10 : 8
    return Math.min(wanted, width < 500 ? 20 : 30, Math.max(6, Math.floor(width / 8)))
  }

  const draw = (canvas) => {
    const grid = grids.get(canvas)
    const width = Math.floor(canvas.parentElement.clientWidth - parseFloat(getComputedStyle(canvas.parentElement).paddingLeft) * 2)
    const step = pitch(grid.cells.length, width)
    const gap = step >= 14 ? 3 : step >= 10 ? 2 : 1
    grid.step = step
    grid.columns = Math.max(1, Math.floor((width + gap) / step))
    // a stretch of cells for each wave, below a line that says which
    let height = 0
    let first = 0
    grid.stretches = (grid.waves.length ? grid.waves : [["", grid.cells.length]]).map(([label, count]) => {
      const top = height + (label ? LABEL : 0)
      height = top + Math.ceil(count / grid.columns) * step
      const stretch = { label, first, count, top }
      first += count
      return stretch
    })
    height = Math.max(height, 1)
    const ratio = window.devicePixelRatio || 1
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio)
      canvas.height = Math.round(height * ratio)
      canvas.style.height = `${height}px`
    }
    const style = getComputedStyle(document.documentElement)
    const colours = {}
    for (const kind of new Set(Object.values(grid.kinds))) colours[kind] = style.getPropertyValue(`--${kind}`)
    const paper = style.getPropertyValue("--card")
    const pen = canvas.getContext("2d")
    pen.setTransform(ratio, 0, 0, ratio, 0, 0)
    pen.clearRect(0, 0, width, height)
    const dim = style.getPropertyValue("--dim")
    pen.font = "12px system-ui, sans-serif"
    for (const { label, first, count, top } of grid.stretches) {
      if (label) {
        pen.fillStyle = dim
        pen.fillText(label, 0, top - 6)
      }
      for (let i = 0; i < count; i++) {
        const code = grid.cells[first + i]
        pen.globalAlpha = shown && code !== shown ? 0.18 : 1
        shape(pen, code, (i % grid.columns) * step, top + Math.floor(i / grid.columns) * step, step - gap, colours[grid.kinds[code] || "aside"], paper)
      }
      pen.globalAlpha = 1
      const i = grid.chosen - first
      if (i >= 0 && i < count) {
        pen.strokeStyle = style.getPropertyValue("--ink")
        pen.lineWidth = 2
        pen.strokeRect((i % grid.columns) * step - 0.5, top + Math.floor(i / grid.columns) * step - 0.5, step - gap + 1, step - gap + 1)
      }
    }
  }

  const later = (canvas) => {
    const grid = grids.get(canvas)
    if (grid.drawing) return
    grid.drawing = requestAnimationFrame(() => {
      grid.drawing = 0
      draw(canvas)
    })
  }

  const highlight = (code) => {
    shown = code === shown ? "" : code
    for (const canvas of grids.keys()) later(canvas)
    marked()
  }
  const marked = () => {
    for (const element of document.querySelectorAll(".legend [data-code]")) element.setAttribute("aria-pressed", element.dataset.code === shown)
  }

  const choose = (canvas, place) => {
    const grid = grids.get(canvas)
    if (!grid.cells.length) return
    grid.chosen = Math.min(Math.max(place, 0), grid.cells.length - 1)
    later(canvas)
    clearTimeout(grid.asking)
    grid.asking = setTimeout(() => htmx.ajax("GET", canvas.dataset.address + grid.chosen, { target: "#cell", swap: "innerHTML" }), 120)
  }

  const begin = (canvas) => {
    grids.set(canvas, { ...JSON.parse(canvas.dataset.grid), kinds: JSON.parse(canvas.dataset.kinds), chosen: -1, drawing: 0, asking: 0 })
    canvas.dataset.cells = grids.get(canvas).cells
    new ResizeObserver(() => later(canvas)).observe(canvas.parentElement)
    canvas.addEventListener("click", (event) => {
      const grid = grids.get(canvas)
      const box = canvas.getBoundingClientRect()
      const column = Math.floor((event.clientX - box.left) / grid.step)
      const y = event.clientY - box.top
      const stretch = grid.stretches.findLast((one) => one.top <= y)
      if (!stretch || column >= grid.columns) return
      const i = Math.floor((y - stretch.top) / grid.step) * grid.columns + column
      if (i < stretch.count) choose(canvas, stretch.first + i)
    })
    canvas.addEventListener("keydown", (event) => {
      const grid = grids.get(canvas)
      const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: grid.columns, ArrowUp: -grid.columns }
      if (event.key in moves) choose(canvas, grid.chosen < 0 ? 0 : grid.chosen + moves[event.key])
      else if (event.key === "Home") choose(canvas, 0)
      else if (event.key === "End") choose(canvas, grid.cells.length - 1)
      else if (event.key === "Enter") {
        const link = document.querySelector("#cell a")
        if (link) link.click()
      } else return
      event.preventDefault()
    })
    draw(canvas)
  }

  // New cells come as JSON and are drawn; all other events are HTML that htmx puts in its place.
  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    const grid = grids.get(event.target)
    if (!grid) {
      keepOpen(event.target)
      return
    }
    event.preventDefault()
    const told = JSON.parse(event.detail.data)
    if (told.order !== grid.order) grid.chosen = -1
    Object.assign(grid, told)
    event.target.dataset.cells = told.cells
    event.target.setAttribute("aria-label", `${told.cells.length} device${told.cells.length === 1 ? "" : "s"}, a cell for each`)
    later(event.target)
  })

  // What somebody has opened or closed, and where they are, stays so when a part is put in anew.
  let opened = new Map()
  let focused = ""
  const keepOpen = (element) => {
    opened = new Map([...element.querySelectorAll("details")].map((one, i) => [one.id || i, one.open]))
    const active = document.activeElement
    focused = active && element.contains(active) && active.getAttribute("href") ? active.getAttribute("href") : ""
  }
  document.addEventListener("htmx:sseMessage", (event) => {
    for (const [i, one] of [...event.target.querySelectorAll("details")].entries()) {
      const was = opened.get(one.id || i)
      if (was !== undefined) one.open = was
    }
    if (focused) {
      const again = event.target.querySelector(`[href="${CSS.escape(focused)}"]`)
      if (again) again.focus({ preventScroll: true })
    }
    marked()
    tick()
  })

  document.querySelectorAll("canvas.grid").forEach(begin)
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => grids.forEach((_, canvas) => later(canvas)))
})()
